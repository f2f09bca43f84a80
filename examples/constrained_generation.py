"""Text that must match, from the embedded diffusion model: a pattern, a JSON schema, keywords.

python examples/constrained_generation.py [--small]
"""

import json
import re
import sys

import torch

import pcircuits_diffusion as pcd
from pcircuits_diffusion import constraints

model, tokenizer = pcd.embedded.load()
rows, eos_id = 2 if "--small" in sys.argv else 8, tokenizer.token_to_id("<eos>")
prompt = tokenizer.encode("Return the length of a string. For example, ").ids


def generate(automaton: constraints.TokenAutomaton, steps: int = 8) -> list[str]:
    found = model.generate(
        [prompt] * rows,
        max_new_tokens=32,
        steps=steps,
        eos_id=eos_id,
        constraint=automaton,
        generator=torch.Generator().manual_seed(0),
    )
    return [tokenizer.decode(row.tolist()) for row in found.rows]


pattern = r"len\([a-z_]{1,12}\) (is|returns) [0-9]{1,3}\."
for text in generate(constraints.regex(pattern, tokenizer)):
    print("pattern: ", text)
    assert re.fullmatch(pattern, text)

properties = {"name": {"type": "string", "maxLength": 12}, "length": {"type": "integer"}}
schema = {"type": "object", "properties": properties, "required": ["name", "length"]}
for text in generate(constraints.json_schema(schema, tokenizer)):
    print("JSON:    ", json.loads(text))

for text in generate(constraints.must_contain(["length", "string"], tokenizer)):
    print("keywords:", repr(text))
    assert "length" in text and "string" in text
