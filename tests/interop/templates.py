"""Writes what transformers renders for chat templates, one template a line.

    python tests/interop/templates.py OUT.jsonl [TEMPLATE.jinja | FOLDER]...

Without templates the ones below are used, and OUT is
tests/fixtures/templates.jsonl. With others (a model's `chat_template.jinja`, a
folder of them) the cases are compared by

    RETUNE_TEMPLATES=OUT.jsonl cargo test --lib given_templates -- --nocapture

The clock stands still at 26 July 2024, as it does in retune.
"""

import datetime
import json
import pathlib
import sys

from transformers.utils import chat_template_utils

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class StillClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = StillClock


def turns(*texts):
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "  Be brief. "}
CONVERSATIONS = [
    turns("Why?"),
    turns(" Why? \n", "Because.\n"),
    turns("A 'quoted' \"word\"", "<b>é & 日本 🦀</b>\ttab", "and\\then\n\nmore"),
    turns("one", "<think>\nhm\n</think>\n\ntwo", "three", "<think>\nx\n</think>\n\nfour"),
    [SYSTEM, *turns("one")],
    [SYSTEM, *turns("one", "two", "/no_think three", "four")],
    [*turns("one"), SYSTEM],
    turns("one", "two")[::-1],
    turns("one") + turns("again"),
]

OWN = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "blocks and spaces": "  {% for m in messages %}\n    {% if loop.first %}\n  first\n    {%- elif loop.last -%}\n  last\n    {% else %}\n\tmiddle {{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }}\n    {% endif %}\n  {% endfor %}\n{# gone #}\nend\n\n",
    "tokens": "{{ bos_token }}{% if sep_token is defined %}sep{% endif %}{{ cls_token }}|{{ unk_token ~ pad_token }}|{{ eos_token }}",
    "nothing": "{% if tools %}tools{% endif %}{% if tools is none and documents is none %}none{% endif %}{% if tools is defined %} defined{% endif %}{{ tools }}{{ add_generation_prompt }}",
    "methods": "{% for m in messages %}{% set c = m.content %}[{{ c.strip() }}|{{ c.lstrip() }}|{{ c.rstrip('.\\n ') }}|{{ c.upper() }}|{{ c.title() }}|{{ c.startswith('o') }}|{{ c.endswith(('?', '.')) }}|{{ c.replace('o', '0') }}|{{ c.split() | length }}|{{ c.split('e')[-1] }}|{{ c.split('e', 1)[0] }}|{{ c.find('e') }}|{{ c.splitlines() | join('/') }}|{{ c.capitalize() }}]{% endfor %}",
    "slices": "{% for m in messages[::-1] %}{{ m.role[:2] }}{{ m.content[1:-1] }}{{ m['content'][::-1] }};{% endfor %}{{ messages[-1].role }}{{ messages[1:] | length }}",
    "thinking": "{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content %}{% set c = m.content.split('</think>')[-1].lstrip('\\n') %}{% else %}{% set c = m.content %}{% endif %}<{{ m.role }}>{{ c }}{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}",
    "namespace": "{% set ns = namespace(last=-1, found=false, text='') %}{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}{% if not ns.found and m.role == 'user' %}{% set ns.last = index %}{% set ns.found = true %}{% endif %}{% set ns.text = ns.text ~ m.role[0] %}{% endfor %}{{ ns.last }} {{ ns.text }} {{ ns.found }}",
    "alternation": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] | trim %}{% else %}{% set loop_messages = messages %}{% endif %}{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system is defined %}{{ '<<' + system + '>>' }}{% endif %}{{ m['role'] }}:{{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%}\n {{ m.content }}{{ eos_token }}\n{%- endgeneration %}{% else %}{{ m.content }}{% generation %}{% set x = 1 %}{% endgeneration %}{{ x }}{% endif %}\n{% endfor %}",
    "json": "{{ messages[0] | tojson }}\n{{ messages[0].content | tojson }}\n{{ messages | tojson(indent=2) }}\n{{ messages[0] | tojson(ensure_ascii=true) }}\n{{ messages[0] | tojson(separators=(',', ':'), sort_keys=true) }}\n{{ [1, 2.0, 1e-7, 1e16, 12.5, true, none, [], {}] | tojson }}\n{{ [[1], {'a': []}] | tojson(indent=4) }}",
    "items": "{% for m in messages %}{% for key, value in m.items() %}{{ key }}={{ value }},{% endfor %}{{ m.keys() | list | length }}{{ m.get('name', 'nobody') }}{% endfor %}",
    "printing": "{{ messages[0] }} {{ [1, 'a', \"b'c\", none, true, 2.5] }} {{ 1e-7 }} {{ 3.0 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ none }} {{ false }}",
    "tests": "{% for m in messages %}{{ m is mapping }}{{ m.content is string }}{{ m.content is iterable }}{{ m.name is defined }}{{ m.tool_calls is not defined }}{{ m.content is sequence }}{{ loop.index is even }}{{ 'user' in m.role }}{{ m.role in ['user', 'system'] }}{{ m.content is none }};{% endfor %}",
    "macros": "{%- macro turn(role, content, end='') -%}\n<{{ role }}>{{ content | trim }}{{ end }}\n{%- endmacro -%}\n{% for m in messages %}{{ turn(m.role, m.content, eos_token if m.role == 'assistant' else '') }}{% endfor %}{% if add_generation_prompt %}{{ turn('assistant', '') }}{% endif %}",
    "filters": "{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }} {{ 'a-b' | replace('-', '+') }} {{ 'x' | upper }} {{ (messages | last).role }} {{ messages | first | length }} {{ undefined_thing | default('d') }} {{ '' | default('e', true) }} {{ '  a\nb' | indent(2) }}",
    "loops": "{% for m in messages if m.role != 'system' %}{% if loop.index > 3 %}{% break %}{% endif %}{% if m.content == 'one' %}{% continue %}{% endif %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ m.role }}>{{ loop.nextitem.role if not loop.last else '-' }} {% endfor %}{% for m in [] %}{{ m }}{% else %}nobody{% endfor %}{% for i in range(2, 7, 2) %}{{ i }}{% endfor %}{{ loop is defined }}",
    "date": "{% if strftime_now is defined %}{% set today = strftime_now('%d %B %Y') %}{% else %}{% set today = 'never' %}{% endif %}{{ today }} {{ strftime_now('%Y-%m-%d %H:%M') }} {{ strftime_now('%A %-d %b %y') }}",
    "strings": "{# a 'comment \\\n #}{{ 'one\\\n two' }}\\\n{% set x = \"it's \\\"\\\n quoted\\\"\" %}{{ x }} {{ 'a\\\\' ~ 'b\\n\\tc' }} {{ \"'\" }}\\\n{{ messages[0].role }}",
    "set block": "{% set text %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ text | length }}{% set a, b = 1, 2 %}{{ a + b }}{{ 'yes' if text else 'no' }}{{ ('a' ~ 1) if not tools }}",
}


def render(template, messages, prompt):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=prompt, **TOKENS
        )
        return rendered[0]
    except Exception:  # a template may fail in any way Python knows
        return None


def templates(paths):
    if not paths:
        yield from OWN.items()
    for path in map(pathlib.Path, paths):
        files = sorted(path.rglob("*.jinja")) if path.is_dir() else [path]
        for file in files:
            yield file.name, file.read_text(encoding="utf-8")


def main(out, paths):
    with open(out, "w", encoding="utf-8") as file:
        for name, template in templates(paths):
            cases = []
            for number, messages in enumerate(CONVERSATIONS):
                # Own templates are many cases already: one prompt each.
                for prompt in [True, False] if paths else [number % 2 == 0]:
                    expected = render(template, messages, prompt)
                    cases.append({"messages": messages, "prompt": prompt, "expected": expected})
            written = {"name": name, "template": template, "tokens": TOKENS, "cases": cases}
            file.write(json.dumps(written, ensure_ascii=False) + "\n")


main(sys.argv[1], sys.argv[2:])
