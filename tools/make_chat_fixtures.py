#!/usr/bin/env python3
"""Render the chat templates of fixtures/chat with transformers.

    python tools/make_chat_fixtures.py

Needs transformers and jinja2. The templates were written for this project, each in the manner of a family of models and
with the Jinja that its templates use. Expected texts are those of `render_jinja_template` after null fields are left out,
as `apply_chat_template` does; null where the template refuses. The date is replaced by one that tests can give.
"""

import datetime
import json
import pathlib

from transformers.utils.chat_template_utils import render_jinja_template

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "chat"


def said(role, content, **fields):
    return {"role": role, "content": content, **fields}


ARGUMENTS = {"city": "Zürich <a> & 'b'", "n": [1, 2.5, True, None], "none": {}, "line": "a\n\t\"b\""}
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}

CONVERSATIONS = {
    "one question": [said("user", "What is 2 < 3 & \"x\"?"), said("assistant", "Yes: é 😀\n\n  done  ")],
    "two questions": [said("system", " Be brief.\n"), said("user", " Hi"), said("assistant", "Hello"),
                      said("user", "Bye "), said("assistant", "  Bye")],
    "alternating": [said("user", " Hi "), said("assistant", "Hello"), said("user", "Bye"), said("assistant", "Bye")],
    "question last": [said("user", "Hi"), said("assistant", "Hello"), said("user", "And?")],
    "thoughts": [said("user", "Hi"), said("assistant", "<think>\nhm\n</think>\n\nHello"), said("user", "And?"),
                 said("assistant", "<think>\nok\n</think>\n\nFine")],
    "assistant first": [said("assistant", "Hello"), said("user", "Hi"), said("assistant", "Yes?")],
    "tools": [said("user", "Rain?"), said("assistant", None, tool_calls=[CALL]),
              said("tool", {"mm": 3, "days": []}), said("assistant", "3 mm")],
}


def main():
    expected = {"conversations": CONVERSATIONS, "texts": {}}
    for path in sorted(FOLDER.glob("*.jinja")):
        for name, messages in CONVERSATIONS.items():
            messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
            for prompted in (False, True):
                today = datetime.datetime.now().strftime("%d %b %Y")
                try:
                    [text], _ = render_jinja_template([messages], chat_template=path.read_text(encoding="utf-8"),
                                                      add_generation_prompt=prompted, bos_token="<s>", eos_token="</s>")
                    text = text.replace(today, "29 Feb 2024")
                except Exception as error:
                    print(f"{path.stem}, {name}: {error!r}")
                    text = None
                expected["texts"].setdefault(path.stem, {}).setdefault(name, {})[str(prompted).lower()] = text
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (FOLDER / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
