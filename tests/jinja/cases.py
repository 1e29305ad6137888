"""Templates of our own: what the language promises, and its corners. Rendered with CONTEXT."""
CONTEXT = {
    "s": "Hello, World", "u": "ÄÖü ß 漢字 🎉x", "e": "", "n": None, "t": True, "f": False, "i": 7, "neg": -7, "x": 2.5,
    "big": 123456789012, "tiny": 1e-07, "huge": 1e22, "one": 1.0, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": [1, 2.0, None, True], "c": {"k": "v"}, "items": "mine", "get": "got"}, "nested": [[1, 2], [3, [4]]],
    "objs": [{"name": "x", "v": 3, "on": True}, {"name": "Y", "v": 1, "on": False}, {"name": "z", "v": 2}],
    "quote": "it's \"so\" \\ \n\t\x01 \u00a0\u200b", "html": "<a href=\"x\">&'</a>", "ws": " \t a  b \n\n c ", "lines": "a\nb\r\nc\n\n d",
    "pct": "100%", "num": " 42 ", "fl": "3.75", "bad": "4x",
}

_EXPRESSIONS = r"""
s | s|length | u|length | l|length | d|length | e|length | missing | missing|length | n | t | f | i | neg | x | one | big | tiny | huge
s[0] | s[-1] | s[1:3] | s[::-1] | s[::2] | s[-3:] | s[:-3] | s[5:1] | s[100:] | s[100] | u[0] | u[-2] | u[2:5] | u[::-1] | s[5:1:-1] | s[-1:-5:-2]
l[0] | l[-1] | l[5] | l[::-1] | l[1:] | l[-100:2] | l[:100:2] | l[2::-1] | l['a'] | d['b'] | d.b | d.zz | d['zz'] | d.c.k | d['items'] | d.a[1]
1+2*3 | (1+2)*3 | 2**10 | 2**-1 | 7/2 | 7//2 | neg//2 | neg%3 | 7%-3 | 7.5//2 | neg%2.5 | -i | +i | -x | 1 - -1 | 2**3**2 | 10 - 2 - 3 | 1e3 | 1.5e-3 | 0.1+0.2 | 1_000 | 1/3 | 1e16 | 1e15 | 123456.789e3 | 5.0 | 1e100
'a' + 'b' | 'a' ~ 1 ~ n ~ t | 'ab' * 3 | [1]*2 | [1,2]+[3] | (1,2)+(3,) | 'a' 'b' | "it's" | 'say "hi"' | 'a\nb\t\\ \x41 \u00e9 \q \101' | n ~ missing | 1 ~ 2
1 == 1.0 | t == 1 | '1' == 1 | n == n | [1,2] == [1,2.0] | {'a':1} == {'a':1} | 1 != 2 | 1 < 2 < 3 | 1 < 3 < 2 | 'a' < 'b' | [1,2] < [1,3] | missing == missing | missing == n | 'b' in d | 'ell' in s | 3 in l | 9 not in l | 'x' in missing | not t | not e | t and e | e or 'x' | n and 1 | 0 or n | 1 < 2 and 2 < 1 or t
'y' if t else 'n' | 'y' if f else 'n' | 'y' if f | ('y' if f) | 1 if f else 2 if f else 3 | (1,) | () | (1,2) | [1, 'a', n, t, 2.0] | {'a': 1, 'b': [1]} | {} | [] | {1: 2, n: 3} | [[], {}, ()] | {'a': 1, 'a': 2}
quote | [quote] | [u] | ['a\'b"c'] | ["a'b"] | [s, quote]|string | d | nested | objs | [1.0, 1e22, 1e-7, 1e16, 123456789.123]
s|upper | s|lower | u|upper | u|lower | s|title | 'a-b c(d'|title | s|capitalize | u|capitalize | 'ΑΣ ΑΣΑ'|lower | ws|trim | ws|trim('\n') | 'xxaxx'|trim('x') | s|replace('l','L') | s|replace('l','L',1) | s|replace('','-') | s|replace('', '-', 2) | i|replace('7','8')
s|default('z') | missing|default('z') | missing|default | e|default('z') | e|default('z', true) | n|default('z') | n|default('z', boolean=true) | missing|d(5)
l|join | l|join(', ') | ls|join('-') | s|join('.') | d|join(',') | objs|join(',', attribute='name') | objs|map(attribute='name')|join('|') | objs|map(attribute='on', default='?')|join('|') | ls|map('upper')|join | l|map('string')|list | ls|map('replace','a','x')|list
l|first | l|last | []|first | s|first | s|last | l|sum | objs|sum(attribute='v') | []|sum | l|sum(start=10) | l|min | l|max | ls|min | ls|max | objs|max(attribute='v') | []|max | ls|sort | ls|sort(case_sensitive=true) | l|sort(reverse=true) | objs|sort(attribute='v')|map(attribute='name')|list | objs|sort(attribute='name', reverse=true)|map(attribute='name')|join | ['a','A','b']|unique|list | [1,2,1]|unique|list | l|reverse|list | s|reverse | d|list | s|list | d|dictsort | {'B':1,'a':2}|dictsort | {'B':1,'a':2}|dictsort(true) | {'b':1,'a':2}|dictsort(by='value') | {'b':1,'a':2}|dictsort(reverse=true) | d|items|list | missing|items|list
objs|selectattr('on')|map(attribute='name')|list | objs|selectattr('on','defined')|list|length | objs|rejectattr('on')|map(attribute='name')|list | objs|selectattr('v','gt',1)|map(attribute='name')|list | objs|selectattr('name','equalto','x')|list | objs|selectattr('name','in',['x','z'])|list|length | l|select('odd')|list | l|reject('odd')|list | [0,1,'',n,t]|select|list | [0,1,'']|reject|list | l|select('>', 1)|list | nested|map('first')|list | nested|map('length')|list | objs|map(attribute='name.0')|list
d|tojson | d|tojson(indent=2) | [u, quote]|tojson | [u, quote, "\U0001F389"]|tojson(ensure_ascii=true) | {}|tojson(indent=4) | [[],{}]|tojson(indent=1) | d|tojson(sort_keys=true) | d|tojson(separators=(',',':')) | [1.0, 1e22, n, t, 1e-7, big]|tojson | {1:2, n:3, t:4, 1.5:5}|tojson | s|tojson | (1,2)|tojson | l|tojson(indent='\t') | nested|tojson(indent=0) | d.a|tojson(true) | l|tojson(false, 3)
num|int | fl|int | bad|int | bad|int(9) | x|int | t|int | n|int | '0x1f'|int(0,16) | fl|float | bad|float | i|float | bad|float(1.5) | neg|abs | x|round | 2.675|round(2) | 1234.5|round(-2) | 2.1|round(0,'ceil') | 2.9|round(method='floor') | 7|round | 2.5|round | 3.5|round | x|string | n|string | i|string|length
html|e | html|escape | html|safe | html|safe + '<b>' | '<b>' + html|safe | ('<'|safe) ~ '<' | html|escape|length | s|urlencode | u|urlencode | 'a/b?c=d&e'|urlencode | s|wordcount | ws|wordcount | lines|indent | lines|indent(2, true) | lines|indent(2, blank=true) | lines|indent('> ', first=true) | 'foo bar baz qux'|truncate(9) | 'foo bar baz qux'|truncate(9, true) | 'foo bar baz qux'|truncate(11) | 'foo bar baz qux'|truncate(9, false, '!', 0) | '%s is %d'|format('a', 3) | '%(a)s'|format(a=1)
s.upper() | s.lower() | s.title() | "they're BIG"|title | "they're BIG".title() | s.capitalize() | ws.strip() | ws.lstrip() | ws.rstrip() | 'xxyxx'.strip('x') | 'abcba'.lstrip('ab') | 'abcba'.rstrip('ab') | s.split() | ws.split() | s.split(',') | s.split('l') | s.split('l', 1) | ws.split(none, 1) | 'a,b,c'.rsplit(',', 1) | ws.rsplit(none, 1) | 'a,b,c'.rsplit(',') | ''.split() | ''.split(',') | lines.splitlines() | lines.splitlines(true) | s.startswith('He') | s.startswith(('x','He')) | s.endswith('ld') | s.endswith(('x',)) | s.startswith('l', 2) | s.replace('l','L') | s.replace('l','L',1) | s.find('o') | s.find('zz') | s.rfind('o') | s.find('o', 5) | u.find('漢') | s.index('W') | s.count('l') | s.count('') | '-'.join(ls) | s.removeprefix('He') | s.removesuffix('ld') | s.partition(', ') | s.partition('?') | s.rpartition('o') | '7'.zfill(3) | '-7'.zfill(4) | '12'.isdigit() | 'ab'.isalpha() | 'a1'.isalnum() | ' '.isspace() | 'AB'.isupper() | 'ab1'.islower() | ''.isdigit()
'{} and {}'.format(1, 'b') | '{1}{0}'.format('a','b') | '{x}-{y}'.format(x=1, y=n) | '{{}}'.format() | '{:>5}|{:<5}|{:^5}'.format('a','b','c') | '{:05d} {:x} {:+d}'.format(42, 255, 3) | '{:.2f} {:10.3f}'.format(3.14159, x) | '{!r} {!s}'.format('a', 'b') | '{0[a]} {1.b}'.format({'a':1},{'b':2}) | '{:*^9}'.format('mid') | '{:5}|'.format(3) | '{:.3}'.format('abcdef') | '{}'.format([1,'a'])
'%s %r' % ('a', 'b') | '%d%%' % 5 | '%05.1f|%-5s|%5s' % (3.14159, 'a', 'b') | '%x %X %o' % (255, 255, 8) | '%(k)s' % {'k': 'v'} | '%s' % n | '%s' % [1] | '%+d % d' % (1, 2) | '%e %g' % (12345.678, 0.0001) | '%c' % 'a' | '%s' % (1,2) | '%s %s' % 1 | '%d' % 'a' | '%i' % 2.9 | '%5.2s|' % 'abc'
d.get('b') | d.get('zz') | d.get('zz', 9) | d.keys()|list | d.values()|list | {'a':1}.items()|list | 'b' in {'b':1}.keys() | l.count(1) | l.index(2) | d.c.copy() | d.pop | l.append is defined | d.update is defined | l.append(1) | d.pop('a') | d.c.items()|list | d.c.values()|first
s is string | i is string | i is number | t is number | t is integer | i is integer | x is float | t is boolean | n is none | missing is defined | s is defined | missing is undefined | d is mapping | l is mapping | l is sequence | s is sequence | d is sequence | d.c.keys() is sequence | i is iterable | s is iterable | n is iterable | missing is iterable | l is iterable | range is callable | s is callable | 3 is odd | 4 is even | 9 is divisibleby 3 | 9 is divisibleby(2) | s is lower | 'abc' is lower | 'ABC' is upper | 1 is eq 1 | 1 is sameas 1 | n is sameas n | t is true | 1 is true | f is false | 3 is in [1,3] | 3 is not in [1,3] | 5 is gt 3 | 5 is lessthan 3 | 'upper' is filter | 'zzz' is filter | 'odd' is test | s is not string | not s is string | 1 + 2 is number | missing.a is defined | d.zz.y is defined | n.a is defined | i.a is defined
range(3)|list | range(1,4)|list | range(5,0,-2)|list | range(0)|list | range(3)[1] | range(3)|length | range(200000)|list | dict(a=1, b=2) | dict({'a':1}, b=2) | namespace(a=1).a | namespace(a=1).b | namespace({'x': 1}).x | namespace(_a=1)
missing + 1 | missing.x | missing() | n + 1 | 's' + 1 | 1 + 's' | s - 1 | n < 1 | 's' < 1 | [1] + (2,) | n|length | i|length | 5|join | n[1:] | n['a'] | n.a | i.b | s.b | l.b | s() | d() | -s | 1/0 | 1//0 | 1%0 | l|sort(attribute='zz') | [1,'a']|sort | n in s | 1 in s | 1 in n | missing < 1 | nope(1) | s.nope() | d|tojson(bad=1) | missing|tojson | range(3)|tojson | s|trim(1,2) | {[1]: 2} | 'a' * 'b' | {}|min | n|list | n|first | missing|first | missing|list | missing|join | missing|upper | missing|trim | missing|int | s[x] | s['x'] | missing[0] | missing[1:] | l[1.5] | '{} {}'.format(1) | '{a}'.format(1) | '{'.format(1) | '}'.format() | '%' % 1 | '%q' % 1 | raise_exception('boom ' ~ u) | raise_exception(5)
s|upper|lower|title | (s|length) + 1 | s|length + 1 | -1|abs | (-1)|abs | not not t | s.split(', ')[1][0] | s.split(', ')|map('length')|list | (d.a)[0] | [1,2,3][1] | {'a': {'b': [1,2]}}.a.b[1] | 'a' if s is string and l is sequence else 'b' | d['a'][-1] | (1,2)[0] | d.a.0 | nested.1.1.0 | 'x'.join(['1','2']) | ["a", "b",] | {"a": 1,} | dict(a=1,) | l|map('abs')|sum | ('a', 'b')|join | s in [s] | s|default('x')|upper | 1 if missing else 2 | [missing]|string | [missing] | {'a': missing} | (missing,)|length
"""

_TEMPLATES = [
    # white space
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if t -%}\n  b\n  {%- endif %}\n c", "  {%+ if t %}x{% endif %}",
    "  {{ s }}  \n  {{- s -}}  \n x", "a {# c #}\n b", "  {# c #}\nb", "a{#- c -#}  b", "x\n\n{% if t %}\n\ny\n\n{% endif %}\n\nz\n\n",
    "{% if t %}{% endif %}\n\nx", "a  {% if t +%}\n b{% endif %}", "  {{ s }}\n  {% set q = 1 %}  {% set r = 2 %}\n.", "\t \t{% if t %}1{% endif %}",
    "a\r\nb\rc\n", "a\n", "a\n\n", "\n", "", " ", "{{ '\n' }}\n{{ 'a\r\nb' }}", "a {% raw %} {{ x }} {% if %} {% endraw %} b",
    "a\n  {% raw %}\n  x  \n  {% endraw %}\n b", "a  {%- raw -%}  x  {%- endraw -%}  b", "a{{ 1 }}\n{{ 2 }}\n", "\u00a0 {%- if t %}x{% endif %}", "x \u2003{%- if t %}y{% endif %}",
    "{# {{ not }} {% closed #}x", "{{ '}}' }} {{ '%}' }}", "{{ {'a': {'b': 1}} }}", "{{{'a': 1}}}", "{ { % } {a} #}", "{{ 1 }}{%- if t %} x {% endif -%}  y",
    "   {#- x #}   \n   y", "{% if t %}\n  {% if t %}\n    x\n  {% endif %}\n{% endif %}\nend", "a\n{%- if t %}\nb{% endif %}", "{%if t%}x{%endif%}", "{%-if t-%} x {%-endif-%}",
    # if
    "{% if f %}1{% elif n %}2{% elif t %}3{% else %}4{% endif %}", "{% if f %}1{% else %}4{% endif %}", "{% if missing %}1{% endif %}.", "{% if not f and l %}y{% endif %}",
    "{% if t %}{% set a = 1 %}{% endif %}{{ a }}", "{% if f %}{% set a = 1 %}{% endif %}[{{ a }}]",
    # for
    "{% for a in l %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }}/{{ loop.depth }}/{{ loop.depth0 }} {% endfor %}",
    "{% for a in [] %}x{% else %}none{% endfor %}", "{% for a in l %}x{% else %}none{% endfor %}", "{% for k, v in d.c.items() %}{{ k }}={{ v }}{% endfor %}",
    "{% for k, v in {'a':1,'b':2}|items %}{{ k }}={{ v }},{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for a in l if a > 1 %}{{ loop.index }}:{{ a }}{% if not loop.last %},{% endif %}{% endfor %}", "{% for a in l if a > 10 %}x{% else %}none{% endfor %}",
    "{% for (a, b) in nested %}{{ a }}-{{ b }} {% endfor %}", "{% for a, (b, c) in [(1,(2,3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a in missing %}x{% else %}-{% endfor %}",
    "{% for a in l %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endfor %}", "{% for a in l %}{% if a == 1 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in l %}{% for b in ls %}{% if loop.index > 2 %}{% break %}{% endif %}{{ a }}{{ b }}{{ loop.index }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% for a in l %}{% set y = a %}{% endfor %}[{{ y }}]", "{% set y = 0 %}{% for a in l %}{% set y = y + a %}{{ y }} {% endfor %}[{{ y }}]", "{% set ns = namespace(y=0) %}{% for a in l %}{% set ns.y = ns.y + a %}{% endfor %}{{ ns.y }}",
    "{% for a in l %}{{ loop.cycle('x','y') }}{% endfor %}", "{% for a in [1,1,2] %}{{ loop.changed(a) }}{% endfor %}", "{% for a in 5 %}{% endfor %}", "{% for a, b in l %}{% endfor %}", "{% for a in range(3) %}{{ a }}{% endfor %}{{ a }}",
    "{% for m in objs %}{% if loop.previtem is defined %}{{ loop.previtem.name }}<{% endif %}{{ m.name }}{% endfor %}", "{% for a in l|sort %}{{ a }}{% endfor %}", "{% for a in 1, 2 %}{{ a }}{% endfor %}",
    "{% set g = l|map('string') %}{{ g|join }}|{{ g|join }}", "{% set g = l|select('odd') %}{% if g %}y{% endif %}{{ g|list }}{{ g|list }}", "{% for a in l %}{% set l = 5 %}{{ l }}{% endfor %}{{ l }}", "{% for x in l %}{{ x }}{% endfor %}{{ x }}",
    # set
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a %}x{{ s }}{% endset %}[{{ a }}]", "{% set a | upper | trim %} x{{ s }} {% endset %}[{{ a }}]", "{% set a %}{% set b = 1 %}{% endset %}[{{ b }}]",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}", "{% set d.a = 1 %}", "{% set nope.a = 1 %}", "{% set a = b = 1 %}", "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [1] %}{% set ns.l = ns.l + ['x'] %}{{ ns.l }}", "{% set a, b = 1 %}",
    "{% set ns = namespace(a=1) %}{{ ns }}", "{% set true = 1 %}", "{% set s = s + '!' %}{{ s }}",
    # macros
    "{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='q') }}{{ m() }}{{ m(b=5) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}", "{% set q = 5 %}{% macro m() %}{{ q }}{% endmacro %}{% set q = 6 %}{{ m() }}", "{% macro m() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ m() }}",
    "{% macro fact(k) %}{{ 1 if k < 2 else k * fact(k - 1)|int }}{% endmacro %}{{ fact(5) }}", "{% macro m(a) %}{% if a > 0 %}{{ a }}{{ m(a - 1) }}{% endif %}{% endmacro %}{{ m(5) }}|{{ m(2)|length }}", "{% for a in l %}{{ m2(a) }}{% endfor %}{% macro m2(x) %}{{ x }}{% endmacro %}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro outer() %}{% macro inner(x) %}<{{ x }}>{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}", "{% macro m() %}{{ s }}{% set s = 1 %}{% endmacro %}{{ m() }}{{ s }}", "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}{{ m(1) + m(2) }}{{ m.name }}",
    "{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}in{{ s }}{% endcall %}", "{% macro m(a) %}({{ caller(a, 2) }}){% endmacro %}{% call(x, y) m(1) %}{{ x }}{{ y }}{% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% for a in l %}{% macro q() %}{{ a }}{% endmacro %}{{ q() }}{% endfor %}",
    "{% macro m(tools) %}{{ tools }}{% endmacro %}{{ m('x') }}", "{% macro r(n) %}{{ r(n) }}{% endmacro %}{{ r(1) }}", "{% macro m() %}{{ loop }}{% endmacro %}{% for a in l %}{{ m() }}{% endfor %}", "{% macro m(a,) %}{% endmacro %}",
    # other blocks
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a','b')|upper %}aXa{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}[{{ a }}]", "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}", "{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{% endwith %}",
    "{% generation %}{{ s }}{% set g = 1 %}{% endgeneration %}{{ g }}", "{% if f %}{{ s|nosuch }}{% endif %}ok", "{% if t %}{{ s|nosuch }}{% endif %}", "{{ s|nosuch if f else 'ok' }}", "{% if t %}{% for a in l %}{{ s|nosuch }}{% endfor %}{% endif %}", "{{ s|nosuch }}", "{% if f %}{{ s is nosuch }}{% endif %}ok", "{{ s is nosuch }}",
    # syntax errors: both must refuse
    "{{ }}", "{{ 1 + }}", "{% if %}x{% endif %}", "{% if t %}x", "{% for a l %}{% endfor %}", "{% endif %}", "{% nosuch %}", "{{ (1 }}", "{{ 1) }}", "{{ [1 }}", "{{ 'abc }}", "{% raw %}x", "{# x", "{{ s", "{% if t %}x{% else %}y{% else %}z{% endif %}", "{% break %}", "{{ a b }}", "{{ a.}}", "{{ 1 is odd is even }}", "{% macro %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{% set %}", "{% set 1 = 2 %}", "{{ $ }}", "{{ 'a' ! 'b' }}", "{% for a in l %}{% endif %}", "{% if t %}{% endfor %}", "{{ {1} }}", "{{ a|1 }}", "{% continue %}",
    "{{ '\\x4' }}", "{{ 07 }}",
]


def cases():
    """(template, context)."""
    for line in _EXPRESSIONS.strip().split("\n"):
        for expression in line.split(" | "):
            yield "[{{ " + expression + " }}]", CONTEXT
    for template in _TEMPLATES:
        yield template, CONTEXT


# What Jinja2 has and octavo refuses, at load, with its place and name.
REFUSED = {
    "{% extends 'a' %}": "line 1, column 4: the tag 'extends' is not supported",
    "{% block a %}{% endblock %}": "line 1, column 4: the tag 'block' is not supported",
    "a\n  {% include 'a' %}": "line 2, column 6: the tag 'include' is not supported",
    "{% import 'a' as b %}": "line 1, column 4: the tag 'import' is not supported",
    "{% from 'a' import b %}": "line 1, column 4: the tag 'from' is not supported",
    "{% autoescape true %}{% endautoescape %}": "line 1, column 4: the tag 'autoescape' is not supported",
    "{% for a in l recursive %}{% endfor %}": "line 1, column 15: recursive loops are not supported",
    "é\n\n{{ x|groupby('a') }}": "line 3, column 6: the filter 'groupby' is not supported",
    "{% if f %}{{ x|batch(2) }}{% endif %}": "line 1, column 16: the filter 'batch' is not supported",
    "{{ f(*a) }}": "line 1, column 6: calls with *arguments or **arguments are not supported",
    "{{ f(**a) }}": "line 1, column 6: calls with *arguments or **arguments are not supported",
    "{{ x.encode('utf8') }}": "line 1, column 12: encode is not supported",
    "{{ cycler(1, 2) }}": "line 1, column 10: cycler is not supported",
    "{{ x[1, 2] }}": "line 1, column 7: an index of several parts is not supported",
    "{{ 0x1f }}": "line 1, column 4: numbers to other bases are not supported",
    "{{ '\\N{DASH}' }}": "line 1, column 4: \\N escapes are not supported",
}
