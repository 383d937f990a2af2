"""What pyproject.toml cannot say: two folders are installed under another name.

Many projects have a folder `training` or `eval` of their own, which packages of these names in site-packages would
hide. So the wheel carries ours as `pxr_training` and `pxr_eval`. Their modules import each other relatively, which
holds under either name: what is installed is the source as it is. Imports rewritten while a wheel is built would leave
an editable installation, which builds none, with the old names for everybody.
"""

from setuptools import find_packages, setup

FOLDERS = {"pxr_training": "training", "pxr_eval": "eval"}

renamed = [f"pxr_{name}" for folder in FOLDERS.values() for name in find_packages(include=[folder, f"{folder}.*"])]
setup(package_dir=FOLDERS, packages=[*find_packages(include=["pxr_*"]), *renamed])
