"""Page to look at cells, in a browser or a notebook: verbs, jobs, web server, widget."""
