"""The engine: arrays that one source steps through, interpreted or compiled; policies, routers, records."""
