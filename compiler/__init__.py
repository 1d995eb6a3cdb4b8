"""From `.llm` text to sharded operators: parse, check, lower, shard, plan memory.

Reading guide: `formats.py`, `ir.py`, `attention.py` and `sharded.py` (what everything else speaks), then
`llm.lark` and `syntax.py` (the language), `check.py`, `lower.py` and `operators.py` (how a spec becomes a
`program.py`), `shard.py` and `tensor_parallel.py` (how a program becomes operators on ranks), `memory.py`.
`catalog.py` is the way in.
"""
