"""Makes docs/study.md, the page on the reproduction study, from the records in results/.

``make study`` runs it. It trains nothing; `page.compose` is a function of the records alone.
"""
