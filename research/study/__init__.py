"""The program behind docs/study.md: the reproduction study told from the records in results/.

``make study`` runs it. It trains nothing; `page.compose` is a function of the records alone.
"""
