#!/usr/bin/env python3
# An agent in a few lines: reads messages as JSON lines, answers in upper case, word by word.
import json, sys

def send(**line):
    print(json.dumps(line), flush=True)

for message in map(json.loads, sys.stdin):
    if message["type"] != "message": continue  # "cancel": nobody waits for this reply any more
    content = message["content"]
    text = content if isinstance(content, str) else json.dumps(content)
    *words, last = text.upper().split() or [""]
    for word in words:
        send(type="block", id=message["id"], content=word + " ")
    send(type="end", id=message["id"], content=last)
