"""The words of the language by what they do, for suggestions and for colours."""

from __future__ import annotations

_SETTINGS = "source context weights activations kv_cache communication let block"
_BRACKETS = "residual parallel repeat experts"
_OPERATORS = "embedding linear rms_norm layer_norm rope attention swiglu geglu gelu relu silu"
_OPTIONS = """
split columns rows by bias tied sinks window dims keep value as at last_token router latent rank delta gated
weights activations kv_cache per group
"""
_DATASHEET = "memory bandwidth peak node linked between nodes power idle price spot reserved"
_SERVICE = """
slo search skus gpus tp pp ep dp batch chunk precision policy router objective mode prefill decode prices
"""

DECLARATION_WORDS = ("model", "sku", "service", "like")
SETTING_WORDS = tuple(_SETTINGS.split())
STRUCTURE_WORDS = (*_BRACKETS.split(), "always", "choose")
OPERATOR_WORDS = tuple(_OPERATORS.split())
OPTION_WORDS = tuple(_OPTIONS.split())
DATASHEET_WORDS = tuple(_DATASHEET.split())
SERVICE_WORDS = tuple(_SERVICE.split())
OPENING_WORDS = (*OPERATOR_WORDS, *_BRACKETS.split())  # what can open a statement
