"""The tables of the PSLA paper: paper.toml says what each row trains and what the paper reached,
paper.py reads it, steps.py turns a row into commands, run.py runs those that are missing, tables.py
sets their numbers beside the paper's. The command is `psla-wds study`."""
