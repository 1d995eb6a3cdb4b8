"""From `.llm` text to sharded operators: parse, check, lower, shard, plan memory.

Reading guide: `ir.py` (what everything else speaks), then `llm.lark` and `syntax.py` (the language),
`lower.py` and `shard.py` (how a spec becomes operators on ranks), `memory.py`.
"""
