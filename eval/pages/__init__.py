"""Pages and pictures: the report of scores (report), the comparison of runs (comparison), the
figures in them and in files (figures, averaging, charts), and the gallery. runs knows the settings,
training clips and weights of runs; page renders templates, which lie here with their style."""
