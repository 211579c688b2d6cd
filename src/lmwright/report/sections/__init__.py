"""The sections of the report, one file each: from the evidence to what the template shows."""
