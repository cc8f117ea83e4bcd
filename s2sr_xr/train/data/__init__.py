"""What trainings read: patches, pairs, simulated views."""
