"""The part of JSON Schema 2020-12 that docs/circuit.schema.json uses."""

import re
from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
CHECKS = {
    "type": lambda value, wanted, root: type(value) is TYPES[wanted],
    "const": lambda value, wanted, root: type(value) is type(wanted) and value == wanted,
    "enum": lambda value, wanted, root: value in wanted,
    "minimum": lambda value, wanted, root: not isinstance(value, int) or value >= wanted,
    "minItems": lambda value, wanted, root: not isinstance(value, list) or len(value) >= wanted,
    "pattern": lambda value, wanted, root: not isinstance(value, str) or re.search(wanted, value) is not None,
    "required": lambda value, wanted, root: not isinstance(value, dict) or set(wanted) <= set(value),
    "items": lambda value, wanted, root: not isinstance(value, list) or all(fits(x, wanted, root) for x in value),
    "anyOf": lambda value, wanted, root: any(fits(value, schema, root) for schema in wanted),
    "$ref": lambda value, wanted, root: fits(value, root["$defs"][wanted.removeprefix("#/$defs/")], root),
}
SILENT = {"$schema", "$defs", "title", "description", "properties", "additionalProperties"}


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a JSON value is valid; `root` is the whole schema."""
    if unknown := set(schema) - SILENT - set(CHECKS):
        raise NotImplementedError(f"this validator does not know {unknown}")
    if not all(check(value, schema[name], root) for name, check in CHECKS.items() if name in schema):
        return False
    if not isinstance(value, dict):
        return True
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(
        fits(entry, known[key], root)
        if key in known
        else others is not False and (others is True or fits(entry, others, root))
        for key, entry in value.items()
    )
