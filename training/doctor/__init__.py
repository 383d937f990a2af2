"""Says before anything is started what will fail on this machine, and what to do: `python -m training doctor [RECIPE]`.

    findings = examine("ppo_3b_lora_1gpu")
    print(report(findings)); sys.exit(exit_status(findings))

Reading order: `findings.py`, `versions.py` (what is installed, and what disagrees), `machine.py` (devices, memory,
disk), `recipe.py` and `memory.py` (what a recipe needs of them), `examination.py` (all of it).
"""

from training.doctor.examination import examine
from training.doctor.findings import Finding, exit_status, report, to_json

__all__ = ["Finding", "examine", "exit_status", "report", "to_json"]
