"""What a device costs, beside what else a user could pick: `python -m bench`."""
