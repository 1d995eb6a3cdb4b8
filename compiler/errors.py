"""What a user can put right: one sentence each, and the exit code the command line ends with.

Anything that is not a ``UserError`` is a bug and is allowed to crash.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input: usage, a spec, a trace. The message says where, what, the value, and what would be right."""

    exit_code = 2


class InfeasibleError(UserError):
    """No configuration meets what was asked."""

    exit_code = 3


class DataMissingError(UserError):
    """The store lacks, or cannot serve, the measurements that were asked for."""

    exit_code = 4


class AgentError(UserError):
    """An agent does not answer, refuses, or failed."""

    exit_code = 5
