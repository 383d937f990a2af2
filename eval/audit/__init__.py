"""What operations give and what they cost: the MED decomposition, and counterfactual views."""
