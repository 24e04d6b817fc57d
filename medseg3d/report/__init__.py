"""Pictures and pages from results. No torch."""
