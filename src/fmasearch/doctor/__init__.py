"""Is a machine, or every node of a cluster, fit for a study? Facts first, then checks that say how to mend them."""
