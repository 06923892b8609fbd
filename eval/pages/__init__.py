"""Pages and pictures: the report of scores (report), the comparison of runs (comparison), what both
share (page), charts and their files (charts), the figures made of them (figures, averaging), and
the picture of a gallery (gallery). Templates, style sheets and the script lie beside them."""
