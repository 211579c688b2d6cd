"""Running a recipe and what it leaves behind: artifacts, lineage, versions, decision log."""
