"""The forms in which a plan is executed, one file each."""
