"""The command line ``dpslice``, on Typer: one module for each command, named as it is.

What they share is in the modules with an underscore; they import none of each other.
`dpslice.cli` is the entry point.

Each command checks where it may write before it reads any data, imports what it needs (so that
``dpslice --help`` is quick), calls the library, and says what came of it: results to standard
output, everything else to standard error. Nothing here computes.

Only `synthesize`, `release`, `schema infer`, `schema check` and `report` open a private table. What
they print of it is the number of rows where the guarantee takes it as public (under add_remove
neither that nor the time the release took, which tells of it), and in an error message the cell
that breaks the schema. Such messages, and what `schema check` prints, are for the data holder.
`report` compares with real rows, which is not private, and says so.
"""
