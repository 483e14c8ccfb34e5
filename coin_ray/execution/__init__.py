"""What runs a study whatever computes its cells: their order, jobs, endings and results. No Ray."""
