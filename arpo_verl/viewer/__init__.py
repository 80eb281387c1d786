"""Shows the record of a run, and the file of an evaluation, in a browser.

A page is one HTML file with everything in it. The Python here reads, sums up and packs; `static` has the page's own
styles and scripts, as they are run: plain CSS and JavaScript, one page of the viewer a file, put together in the order
of `page.SCRIPTS`.
"""
