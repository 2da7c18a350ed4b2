"""The figures, a file for each family; `report.sections` lists all of them."""
