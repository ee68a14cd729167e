"""The report: what the records say of the paper, on one page that needs no network, in Markdown, and as LaTeX tables.

    findings   what is said: tables, intervals, verdicts, gathered from a folder of results
    grids      the same as tables of text;  figures: as drawings;  curves: how the rows learned
    attention  what memory does, where it was looked at;  lesions: what it is worth
    sections   all of that in the report's order, built of blocks: the one list that everything is rendered from
    page       the HTML page;  write: Markdown, and the files;  texts: tables in Markdown and LaTeX

Made from `results/` and `configs/` alone: no corpus, no checkpoint, no torch.
"""
