"""Schemas with instances: (schema, those that satisfy it and that octavo writes, those that do not satisfy it); refused
ones with the keyword that the message names; and random schemas."""


OBJ = {"type": "object"}
CLOSED = {"additionalProperties": False}


def props(required=(), more=None, **properties):
    return {"type": "object", "properties": properties, "required": list(required), **(more or {})}


CASES = [
    # booleans, type
    (True, [1, "a", None, True, [], {}, {"a": [1.5]}], []),
    ({}, [1, -0.5, 1e10, "\u00e9\U0001f600", [[[]]], {"": 0}], []),
    ({"type": "null"}, [None], [0, "", False, [], {}]),
    ({"type": "boolean"}, [True, False], [0, "true", None]),
    ({"type": "integer"}, [0, 7, -12, 10**19], [1.5, "1", None, [1]]),
    ({"type": "number"}, [0, -1, 2.5, 0.0001, 12e30], ["1", None]),
    ({"type": "string"}, ["", "a", "\"\\\b\f\n\r\t/", "\x01\x1f", "\u6f22\U0001f600"], [1, None, []]),
    ({"type": "array"}, [[], [1], ["a", None, {}]], [{}, "[]", 1]),
    ({"type": "object"}, [{}, {"a": 1}, {"a": {"a": {}}}], [[], "{}", None]),
    ({"type": ["string", "null"]}, ["a", None], [1, [], {}]),
    ({"type": ["integer", "array"]}, [1, [1.5]], [1.5, "a"]),
    ({"type": ["integer", "number"]}, [1, 1.5], ["a"]),
    # properties, required, additionalProperties
    (props(a={"type": "integer"}), [{}, {"a": 1}, {"b": 2}, {"a": 1, "z": [None]}], [{"a": "1"}, {"a": None}]),
    (props(["a"], a={"type": "integer"}), [{"a": 1}, {"a": 1, "b": 0}], [{}, {"b": 1}, {"a": 1.5}]),
    (props(["b"], CLOSED, a={}, b={}, c={}), [{"b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, {"b": 1, "c": 0}],
     [{"a": 1, "c": 1}, {"b": 1, "d": 1}, {}]),
    (props(["a", "c"], CLOSED, a={}, b={}, c={}), [{"a": 1, "c": 2}, {"a": 1, "b": 0, "c": 2}], [{"a": 1}, {"c": 1, "b": 2}]),
    (props([], CLOSED, a={}, b={}, c={}), [{}, {"a": 1}, {"b": 1}, {"c": 1}, {"a": 1, "c": 1}, {"a": 0, "b": 1, "c": 2}],
     [{"d": 1}, {"a": 1, "A": 1}]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}, []]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1}, {"a": 1, "b": 2}], [{"a": "b"}, {"a": 1, "b": None}]),
    (props([], {"additionalProperties": {"type": "string"}}, n={"type": "integer"}), [{"n": 1, "m": "a"}, {"nn": "x"}, {"N": "x"}, {"": "x"}],
     [{"n": "a"}, {"m": 1}, {"nn": 1}]),
    ({"required": ["a", "b"]}, [{"a": 1, "b": 2}, 1, "a", None, {"a": 1, "b": 2, "c": 3}], [{"a": 1}, {}, {"b": 2}]),
    ({"type": "object", "required": []}, [{}], [1]),
    (props(["\u00e9\"\\"], None, **{"\u00e9\"\\": {"type": "null"}}), [{"\u00e9\"\\": None}], [{"\u00e9\"\\": 1}, {}]),
    (props([], CLOSED, **{"a\nb": {}, "a/b": {}, "~": {}}), [{"a\nb": 1, "a/b": 2, "~": 3}], [{"a\\nb": 1}]),
    ({"properties": {"a": False, "b": True}, "type": "object"}, [{}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 2}]),
    ({"properties": {"a": {"type": "integer"}}}, [1, "x", [], {"a": 1}, {}], [{"a": "x"}]),
    (props(["a"], None, a=props(["b"], None, b=props(["c"], CLOSED, c={"type": "null"}))), [{"a": {"b": {"c": None}}}],
     [{"a": {"b": {"c": 1}}}, {"a": {"b": {}}}, {"a": {"b": {"c": None, "d": 1}}}]),
    (props(**{"a": {"type": "integer"}, "ab": {"type": "null"}, "abc": {"type": "string"}}), [{"a": 1, "ab": None, "abc": "x"}, {"b": 1, "abcd": []}],
     [{"ab": 1}, {"abc": 1}]),
    # counts of members
    ({"type": "object", "minProperties": 1}, [{"a": 1}, {"a": 1, "b": 2}], [{}]),
    ({"type": "object", "maxProperties": 2}, [{}, {"a": 1}, {"a": 1, "b": 2}], [{"a": 1, "b": 2, "c": 3}]),
    ({"type": "object", "maxProperties": 0}, [{}], [{"a": 1}]),
    ({"type": "object", "minProperties": 1, "maxProperties": 1}, [{"a": 1}], [{}, {"a": 1, "b": 1}]),
    (props([], {"minProperties": 2, **CLOSED}, a={}, b={}, c={}), [{"a": 1, "b": 1}, {"a": 1, "c": 1}, {"b": 0, "c": 1}, {"a": 1, "b": 1, "c": 1}],
     [{}, {"a": 1}, {"b": 1}]),
    (props([], {"maxProperties": 1, **CLOSED}, a={}, b={}), [{}, {"a": 1}, {"b": 1}], [{"a": 1, "b": 1}]),
    (props(["b"], {"minProperties": 2, "maxProperties": 3}, a={}, b={}), [{"a": 1, "b": 1}, {"b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}],
     [{"b": 1}, {"a": 1, "b": 1, "c": 1, "d": 1}]),
    (props([], {"minProperties": 3}, a={}, b={}), [{"a": 1, "b": 1, "c": 1}], [{"a": 1, "b": 1}, {"a": 1}]),
    # patternProperties, propertyNames
    ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}}, [{}, {"x": 1}, {"xa": 1, "y": "a"}], [{"x": "a"}, {"xy": None}]),
    ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}, **CLOSED}, [{}, {"x": 1}, {"xyz": 2}], [{"y": 1}, {"x": "a"}]),
    ({"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"maximum": 9}}, "additionalProperties": {"type": "null"}},
     [{"a": 10}, {"b": 9}, {"ab": 3}, {"cb": "x"}, {"c": None}], [{"ab": 10}, {"ab": "x"}, {"c": 1}, {"b": 10}]),
    ({"type": "object", "properties": {"xa": {"minimum": 3}}, "patternProperties": {"^x": {"type": "integer"}}},
     [{"xa": 3}, {"xb": 1}], [{"xa": 2}, {"xa": "a"}]),
    ({"type": "object", "propertyNames": {"pattern": "^[a-z]{1,3}$"}}, [{}, {"abc": 1}], [{"abcd": 1}, {"A": 1}, {"": 1}]),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}}, [{}, {"a": 1}, {"b": 1, "a": 2}],
     [{"c": 1}, {"a": "x"}]),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, [{"ab": 1}, {"\u6f22\U0001f600": 1}], [{"abc": 1}]),
    ({"type": "object", "propertyNames": {"not": {"minLength": 2}}}, [{"a": 1}, {}], [{"ab": 1}]),
    ({"type": "object", "propertyNames": {"not": {"pattern": "^a"}}}, [{"b": 1}, {}], [{"ab": 1}]),
    ({"type": "object", "propertyNames": False}, [{}], [{"a": 1}]),
    (props(["ok"], {"propertyNames": {"pattern": "^o"}}, ok={}, no={}), [{"ok": 1}, {"ok": 1, "oh": 1}], [{"ok": 1, "no": 1}, {"ok": 1, "x": 1}]),
    # dependencies
    (props([], {"dependentRequired": {"a": ["b"]}}, a={}, b={}), [{}, {"b": 1}, {"a": 1, "b": 1}, {"c": 1}], [{"a": 1}]),
    (props([], {"dependentRequired": {"a": ["b"], "b": ["a"]}}, a={}, b={}), [{}, {"a": 1, "b": 1}], [{"a": 1}, {"b": 1}]),
    ({"type": "object", "dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}}}, "properties": {"a": {}, "b": {}}},
     [{"a": 1, "b": 2}, {"b": "x"}, {}], [{"a": 1, "b": "x"}]),
    # unevaluatedProperties
    (props([], {"unevaluatedProperties": False}, a={}), [{}, {"a": 1}], [{"b": 1}]),
    ({"allOf": [props([], None, a={})], "properties": {"b": {}}, "unevaluatedProperties": False, "type": "object"},
     [{}, {"a": 1}, {"b": 1}, {"b": 1, "a": 1}], [{"c": 1}]),
    ({"$ref": "#/$defs/base", "properties": {"b": {}}, "unevaluatedProperties": False, "$defs": {"base": props(["a"], None, a={})}},
     [{"b": 1, "a": 1}, {"a": 1}], [{"a": 1, "c": 1}, {"b": 1}]),
    ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": {"type": "integer"}}, [{"a": "x", "b": 1}], [{"b": "x"}]),
    ({"type": "object", "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {}}, "required": ["b"]}],
      "unevaluatedProperties": False}, [{"a": 1}, {"b": 0}], [{"a": 2}, {"a": 1, "c": 1}, {}]),
    # arrays
    ({"type": "array", "items": {"type": "integer"}}, [[], [1], [1, 2, 3]], [["a"], [1, None], [1.5]]),
    ({"type": "array", "items": False}, [[]], [[1]]),
    ({"type": "array", "minItems": 2}, [[1, 2], [1, 2, 3]], [[], [1]]),
    ({"type": "array", "maxItems": 2}, [[], [1], [1, 2]], [[1, 2, 3]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "minItems": 1, "maxItems": 1}, [[1]], [[], [1, 2]]),
    ({"type": "array", "minItems": 3, "maxItems": 5, "items": {"type": "null"}}, [[None] * 3, [None] * 5], [[None] * 2, [None] * 6]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[], [1], [1, "a"], [1, "a", None]], [["a"], [1, 1]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[], [1], [1, "a"]], [[1, "a", 1], ["a"]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}, "minItems": 2}, [[1, "a"], [1, "a", "b"]], [[1], [1, 2], []]),
    ({"type": "array", "prefixItems": [{}, {}, {}], "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ({"type": "array", "prefixItems": [{}, {}], "minItems": 4}, [[1, 2, 3, 4], [1, 2, 3, 4, 5]], [[1, 2, 3]]),
    ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1}}, [[], [[1], [2, 3]]], [[[]], [1]]),
    ({"items": {"type": "integer"}}, ["a", 1, [1], {}], [["a"]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "unevaluatedItems": False}, [[], [1]], [[1, 2]]),
    ({"type": "array", "contains": {"const": 3}, "items": {"type": "integer"}}, [[3], [1, 3], [1, 3, 2], [3, 3]], [[], [1, 2]]),
    ({"type": "array", "contains": {"type": "null"}, "minContains": 2}, [[None, None], [1, None, 2, None]], [[None], [1, None]]),
    ({"type": "array", "contains": {"type": "null"}, "minContains": 0}, [[], [1]], [1]),
    ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2, "a"]}}, [[], [1], [2, 1], ["a", 1, 2]], [[1, 1], [1, 2, 1], [3]]),
    ({"type": "array", "uniqueItems": True, "items": {"enum": ["x", "y", "z"]}, "minItems": 2, "maxItems": 2}, [["x", "y"], ["z", "y"]],
     [["x"], ["x", "x"], ["x", "y", "z"]]),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 2]]),
    ({"type": "array", "uniqueItems": False}, [[1, 1]], [1]),
    # enum, const
    ({"enum": [1, "a", None, True, [1, {"b": 2}], {}]}, [1, "a", None, True, [1, {"b": 2}], {}], [2, "b", False, [1], {"a": 1}]),
    ({"const": "a\"b\\\n\u00e9"}, ["a\"b\\\n\u00e9"], ["a", ""]),
    ({"const": {"a": [1, 2], "b": None}}, [{"a": [1, 2], "b": None}], [{"a": [1, 2]}, {"a": [2, 1], "b": None}]),
    ({"const": 1.5}, [1.5], [1, 2]),
    ({"const": -1e-7}, [-1e-07], [0]),
    ({"const": 0}, [0], [False, None, ""]),
    ({"const": False}, [False], [0, None]),
    ({"type": "string", "enum": ["a", 1, "bb"]}, ["a", "bb"], [1, "b"]),
    ({"enum": ["a", "bb", "ccc"], "minLength": 2}, ["bb", "ccc"], ["a"]),
    ({"enum": [1, 2, 3, 4.5, "x"], "type": "number", "minimum": 2, "multipleOf": 0.5}, [2, 3, 4.5], [1, "x"]),
    ({"enum": ["ab", "b", "cab"], "pattern": "^.?ab$"}, ["ab", "cab"], ["b"]),
    ({"enum": [{"a": 1}, {"a": "x"}, {"b": 1}, [1]], "properties": {"a": {"type": "integer"}}, "required": ["a"]}, [{"a": 1}, [1]],
     [{"a": "x"}, {"b": 1}]),
    ({"enum": [[1], [1, 1], [1, 2], []], "uniqueItems": True, "minItems": 1, "contains": {"const": 1}}, [[1], [1, 2]], [[1, 1], []]),
    ({"const": 3, "enum": [1, 2, 3]}, [3], [1]),
    ({"enum": [1, 2, 3], "not": {"const": 2}}, [1, 3], [2]),
    ({"enum": ["2024-02-29", "2023-02-29", "x"], "format": "date"}, ["2024-02-29"], ["2023-02-29", "x"]),
    ({"enum": [1, 2, 3], "oneOf": [{"maximum": 2}, {"minimum": 2}]}, [1, 3], [2]),
    ({"enum": [1, "a", None], "if": {"type": "integer"}, "then": {"minimum": 2}, "else": {"type": "null"}}, [None], [1, "a"]),
    # numbers
    ({"type": "integer", "minimum": 3}, [3, 4, 10, 300], [2, 0, -3]),
    ({"type": "integer", "maximum": -3}, [-3, -4, -1000], [-2, 0, 3]),
    ({"type": "integer", "minimum": -5, "maximum": 12}, [-5, -1, 0, 9, 10, 12], [-6, 13, 100]),
    ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}, [1, 5, 9], [0, 10, -1]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5, 0.001, 1.0], [-0.1, 1.01, 2]),
    ({"type": "number", "exclusiveMinimum": 0.5}, [0.51, 1, 17.25], [0.5, 0.49, 0, -1]),
    ({"type": "number", "minimum": -1.25, "exclusiveMaximum": 3.75}, [-1.25, -1, 0, -0.5, 3.74], [-1.26, 3.75, 4]),
    ({"type": "number", "maximum": 1e21}, [1, 10**19], [1e22]),
    ({"type": "integer", "minimum": 9007199254740993, "maximum": 9223372036854775807}, [9007199254740994, 9223372036854770000], [9007199254740992, 2**63]),
    ({"type": "integer", "minimum": 1.5, "maximum": 3.5}, [2, 3], [1, 4]),
    ({"minimum": 5}, [5, 6.5, "a", None], [4]),
    ({"type": "integer", "multipleOf": 7}, [0, 7, -14, 700], [1, 8, -13]),
    ({"type": "integer", "multipleOf": 1000}, [0, 1000, 23000], [100, 1500]),
    ({"type": "integer", "multipleOf": 60, "minimum": 0, "maximum": 600}, [0, 60, 600], [30, 660, -60]),
    ({"type": "number", "multipleOf": 0.25}, [0, 0.25, 1.5, -3.75, 2], [0.1, 0.3]),
    ({"type": "number", "multipleOf": 5}, [0, 5, -10, 5.0], [1, 5.5]),
    ({"type": "integer", "multipleOf": 0.5}, [1, 2], [1.5]),
    ({"type": "integer", "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]}, [12, 24, 0], [4, 6, 18]),
    # strings
    ({"type": "string", "minLength": 2}, ["ab", "\u6f22\U0001f600", "\n\n", "abc"], ["", "a", "\U0001f600"]),
    ({"type": "string", "maxLength": 2}, ["", "a", "\U0001f600\U0001f600", "\"\\"], ["abc", "\n\n\n"]),
    ({"type": "string", "minLength": 3, "maxLength": 3}, ["abc", "\u00e9\u00e9\u00e9"], ["ab", "abcd"]),
    ({"type": "string", "maxLength": 500}, ["a" * 500, ""], ["a" * 501]),
    ({"type": "string", "maxLength": 0}, [""], ["a"]),
    ({"type": "string", "pattern": "^[a-c]+$"}, ["a", "abc"], ["", "d", "abd"]),
    ({"type": "string", "pattern": "b"}, ["b", "abc", "\nb\n"], ["", "ac"]),
    ({"type": "string", "pattern": "^\"\\\\$"}, ["\"\\"], ["\"", "\\"]),
    ({"type": "string", "pattern": "^(\\([0-9]{3}\\))?[0-9]{3}-[0-9]{4}$"}, ["555-1212", "(888)555-1212"], ["(888)555-1212 ext. 532", "(800)FLOWERS"]),
    ({"type": "string", "pattern": "^a*$", "minLength": 1, "maxLength": 3}, ["a", "aaa"], ["", "aaaa", "b"]),
    ({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["ab", "axb"], ["a", "b", "ba"]),
    ({"type": "string", "format": "date", "pattern": "^2024-"}, ["2024-01-31"], ["2023-01-31", "2024-"]),
    ({"type": "string", "format": "ipv4", "maxLength": 8}, ["10.0.0.1"], ["100.100.1.1", "1.2.3"]),
    ({"type": "string", "not": {"const": "no"}}, ["yes", "", "n", "noo"], ["no"]),
    ({"type": "string", "not": {"enum": ["a", "b\n"]}, "maxLength": 2}, ["c", "", "b"], ["a", "b\n", "abc"]),
    # formats
    ({"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31", "2000-02-29"], ["2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "x"]),
    ({"type": "string", "format": "time"}, ["12:00:00Z", "23:59:59.123+01:00"], ["24:00:00Z", "12:00:00", "12:60:00Z"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T12:00:00Z", "2024-01-01T00:00:00.5-08:00"], ["2024-02-30T12:00:00Z", "2024-01-01 00:00"]),
    ({"type": "string", "format": "duration"}, ["P1D", "PT5M", "P1Y2M3DT4H5M6S", "P2W"], ["P", "PT", "1D", "P1D2H"]),
    ({"type": "string", "format": "uuid"}, ["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08aa9811eab4aa73b441d16380", "x"]),
    ({"type": "string", "format": "ipv4"}, ["0.0.0.0", "255.255.255.255", "127.0.0.1"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
    ({"type": "string", "format": "ipv6"}, ["::", "::1", "1:2:3:4:5:6:7:8", "fe80::1:2", "::ffff:1.2.3.4"], ["1::2::3", "12345::", "1:2:3:4:5:6:7"]),
    ({"type": "string", "format": "email"}, ["a@b.c", "joe.bloggs+x@example.com"], ["x", "a.b.c", ".a@b.c"][:2]),
    ({"type": "string", "format": "hostname"}, ["example.com", "a", "a-b.c-d.e"], ["-a.com", "a..b", "a_b"]),
    ({"type": "string", "format": "uri"}, ["http://a.b/c?d=e#f", "mailto:a@b.c", "urn:x:y"], ["//a/b", "x", "http://a b"]),
    ({"type": "string", "format": "uri-reference"}, ["/a/b", "#f", "", "http://a/"], ["\\a"]),
    ({"type": "string", "format": "json-pointer"}, ["", "/a/b~0~1", "/"], ["a", "/~2"]),
    ({"type": "string", "format": "relative-json-pointer"}, ["0", "1/a", "2#"], ["/a", "01"]),
    ({"type": "string", "format": "password"}, ["anything"], [1]),
    ({"type": "integer", "format": "int32"}, [1], ["a"]),
    ({"format": "date"}, ["2024-01-01", 5, None], ["x"]),
    # allOf, anyOf, oneOf, not
    ({"allOf": [props(["a"], None, a={"type": "integer"}), props(["b"], None, b={"type": "string"})]}, [{"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 0}],
     [{"a": 1}, {"b": "x"}, {"a": "x", "b": "x"}]),
    ({"allOf": [props([], None, a={"minimum": 3}), props([], None, a={"type": "integer", "maximum": 5})]}, [{"a": 4}, {}], [{"a": 2}, {"a": 6}, {"a": 3.5}]),
    ({"allOf": [props([], CLOSED, a={}, b={}), props([], CLOSED, b={}, c={})]}, [{}, {"b": 1}], [{"a": 1}, {"c": 1}]),
    ({"allOf": [{"items": {"type": "integer"}}, {"minItems": 1}, {"type": "array"}, True]}, [[1]], [[], ["a"]]),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, [1, "a", ""], ["ab", None, 1.5]),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ["a", None], [1]),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}], [{}, {"c": 1}]),
    ({"anyOf": [{"minimum": 5}, {"maximum": 2}], "type": "integer"}, [1, 2, 5, 9], [3, 4]),
    ({"anyOf": [{"allOf": [{"type": "integer"}]}, {"anyOf": [{"const": "x"}, {"enum": [None]}]}]}, [3, "x", None], ["y", 1.5]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None, 1.5]),
    ({"oneOf": [{"const": 1}, {"const": 2}, {"enum": ["a", "b"]}]}, [1, 2, "a"], [3, "c"]),
    ({"oneOf": [props(["k"], CLOSED, k={"const": "a"}, v={"type": "integer"}), props(["k"], CLOSED, k={"const": "b"}, v={"type": "string"})]},
     [{"k": "a", "v": 1}, {"k": "b", "v": "x"}, {"k": "a"}], [{"k": "a", "v": "x"}, {"k": "c"}, {}]),
    ({"oneOf": [{"type": "integer", "maximum": 0}, {"type": "integer", "minimum": 1}]}, [0, 1, -5, 7], [1.5]),
    ({"oneOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 2}]}, ["", "a", "ab"], [1]),
    ({"oneOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "uuid"}]}, ["2024-01-01", "2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["x"]),
    ({"oneOf": [{"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}]}, [[], [1], [1, 2]], [1]),
    ({"oneOf": [props(["a"], CLOSED, a={}), props(["b"], CLOSED, b={})]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ({"oneOf": [{"type": "null"}]}, [None], [1]),
    ({"type": "object", "required": ["t"], "properties": {"t": {"type": "string"}}, "oneOf": [{"properties": {"t": {"const": "x"}}}, {"properties": {"t": {"pattern": "^y"}}}]},
     [{"t": "x"}, {"t": "yy"}], [{"t": "z"}, {}]),
    ({"not": {"type": "object"}}, [1, "a", None, []], [{}]),
    ({"not": {"type": ["integer", "string"]}}, [1.5, None, []], [1, "a"]),
    ({"not": {"const": None}, "type": ["null", "boolean"]}, [True, False], [None]),
    ({"not": {"const": True}, "type": "boolean"}, [False], [True]),
    ({"not": {"required": ["a"]}, "type": "object"}, [{}, {"b": 1}], [{"a": 1}]),
    ({"not": False}, [1, {}], []),
    ({"not": {"const": 1}}, [0, 2.5, 1.25, "1", None, [1]], [1, 1.0]),
    ({"not": {"enum": [1, 3, "a", False]}}, [2, 0, 4, "b", True, 2.5], [1, 3, "a", False]),
    ({"not": {"enum": [0, 10]}, "type": "integer", "minimum": 0, "maximum": 10}, [1, 9], [0, 10, 11]),
    ({"not": {"required": ["a", "b"]}, "type": "object"}, [{}, {"a": 1}, {"b": 1}], [{"a": 1, "b": 1}]),
    ({"not": {"properties": {"k": {"const": "x"}}, "required": ["k"]}, "type": "object", "properties": {"k": {"type": "string"}}},
     [{}, {"k": "y"}], [{"k": "x"}, {"k": 1}]),
    ({"not": {"type": "string", "minLength": 3}}, ["ab", 1, None], ["abc"]),
    ({"not": {"minimum": 3}}, [2, 2.5], [3, "a", None]),
    ({"not": {"minimum": 3, "maximum": 5}}, [2, 6, 5.5], [3, 4, "a"]),
    ({"not": {"exclusiveMaximum": 3}, "type": "integer"}, [3, 4], [2]),
    ({"not": {"pattern": "^a"}}, ["b", ""], ["a", "ab", 1]),
    ({"not": {"pattern": "b"}, "pattern": "^[a-c]*$", "type": "string"}, ["ac", ""], ["abc", "d"]),
    ({"not": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}, [1.5, None], [1, "a"]),
    ({"not": {"allOf": [{"type": "string"}, {"maxLength": 2}]}}, ["abc", 1], ["ab"]),
    ({"not": {"not": {"type": "integer"}}}, [1], ["a", 1.5]),
    ({"not": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": ["null", "integer"]}}}, ["a", 1.5], [1, None]),
    ({"not": {"items": {"type": "integer"}}}, [[1, "a"], ["a"]], [[1], [], "a"]),
    ({"not": {"contains": {"const": 1}}}, [[], [2, 3]], [[1], [2, 1], 3]),
    ({"not": {"minItems": 2}}, [[], [1]], [[1, 2], 1]),
    ({"not": {"maxProperties": 1}, "properties": {"a": {}, "b": {}}}, [{"a": 1, "b": 2}], [{}, {"a": 1}, 1]),
    ({"not": {"prefixItems": [{"type": "integer"}, {"type": "string"}]}}, [["a"], [1, 2]], [[], [1], [1, "a"], 1]),
    ({"not": {"dependentRequired": {"a": ["b"]}}, "properties": {"a": {}, "b": {}}}, [{"a": 1}], [{}, {"b": 1}, {"a": 1, "b": 2}]),
    ({"not": {"oneOf": [{"type": "integer"}, {"minimum": 3}]}}, [3, 2.5, 7], [2, 3.5, "a"]),
    ({"not": {"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "string"}}}, [2, None, 1.5], [3, "a"]),
    # if, then, else
    ({"if": {"type": "integer"}, "then": {"minimum": 3}}, [3, 1.5, "a"], [2, -1]),
    ({"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "string"}}, [3, "a"], [2, 1.5, None]),
    ({"type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "x": {}}, "required": ["kind"],
      "if": {"properties": {"kind": {"const": "a"}}}, "then": {"properties": {"x": {"type": "integer"}}, "required": ["x"]},
      "else": {"properties": {"x": {"type": "string"}}}},
     [{"kind": "a", "x": 1}, {"kind": "b"}, {"kind": "b", "x": "s"}], [{"kind": "a"}, {"kind": "a", "x": "s"}, {"kind": "b", "x": 1}]),
    ({"type": "object", "properties": {"c": {"enum": ["US", "CA", "NL"]}, "zip": {"type": "string"}}, "required": ["c"], "allOf": [
        {"if": {"properties": {"c": {"const": c}}, "required": ["c"]}, "then": {"properties": {"zip": {"pattern": p}}}}
        for c, p in [("US", "^[0-9]{5}$"), ("CA", "^[A-Z][0-9][A-Z]$"), ("NL", "^[0-9]{4}$")]]},
     [{"c": "US", "zip": "12345"}, {"c": "CA", "zip": "K1A"}, {"c": "NL"}], [{"c": "US", "zip": "1234"}, {"c": "NL", "zip": "12345"}, {"c": "DE"}]),
    ({"type": "object", "properties": {"k": {"enum": list(range(12))}, "v": {}}, "required": ["k", "v"], "allOf": [
        {"if": {"properties": {"k": {"const": i}}}, "then": {"properties": {"v": {"const": i}}}} for i in range(12)]},
     [{"k": 0, "v": 0}, {"k": 11, "v": 11}], [{"k": 0, "v": 1}, {"k": 12, "v": 12}, {"k": 3}]),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
     [{"a": 1, "b": 1}, {"c": 1}, {"b": 1, "c": 2}], [{"a": 1}, {}, {"b": 1}, {"a": 1, "c": 1}]),
    ({"type": "object", "if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"properties": {"b": {}}}, "unevaluatedProperties": False},
     [{"a": 1}, {"a": 1, "b": 2}, {}], [{"a": 2}, {"b": 1}]),
    ({"type": "object", "properties": {"b": {}}, "not": {"required": ["a"]}, "unevaluatedProperties": False}, [{}, {"b": 1}], [{"a": 1}, {"c": 1}]),
    ({"else": {"type": "integer"}, "if": {"type": "string"}}, ["a", 1], [None, 1.5]),
    # oneOf of branches that overlap
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, "a", 0], [2, 3, 1.5]),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, [1.5], [1, "a"]),
    ({"oneOf": [{"enum": ["a", "b", 1]}, {"enum": ["b", "c", 1]}]}, ["a", "c"], ["b", 1]),
    ({"oneOf": [{"type": "string"}, {"const": "x"}]}, ["a", "xx"], ["x"]),
    ({"oneOf": [{"type": "string"}, {"type": "string"}, {"type": "null"}]}, [None], ["a"]),
    ({"oneOf": [{"type": "integer"}, {"type": "null", "oneOf": [{"type": "string"}, {}, {"enum": [None]}]}]}, [1], [None]),
    ({"type": "string", "not": {"pattern": "^(ab)*$", "type": "string"}}, ["\n", "a", "abc"], ["", "ab"]),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
     [{"a": 1}, {"b": 1}, {"a": 1, "c": 1}], [{}, {"a": 1, "b": 1}]),
    ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ({"oneOf": [props(["a"], None, a={"type": "integer"}), props(["a"], None, a={"minimum": 3}), {"type": "null"}]},
     [{"a": 1}, {"a": 3.5}, {"a": "x"}, None], [{"a": 3}, {"a": 1.5}, {}]),
    ({"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["a", "b", "ac"], ["ab", "c", "aab"]),
    ({"type": "string", "oneOf": [{"minLength": 2}, {"maxLength": 4}]}, ["a", "abcde"], ["ab", "abcd"]),
    ({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": {"maximum": 5, "type": "integer"}, "b": {"minimum": 3, "type": "integer"}}},
     [2, 6], [3, 5]),
    ({"if": True, "then": {"type": "integer"}, "else": {"type": "string"}}, [1], ["a"]),
    ({"if": False, "then": {"type": "integer"}, "else": {"type": "string"}}, ["a"], [1]),
    ({"then": {"type": "integer"}}, ["a", 1], []),
    # references
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, [1], ["a"]),
    ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, [3], [2, "a"]),
    ({"$ref": "#/$defs/a~1b~0c%25", "$defs": {"a/b~c%": {"type": "integer"}}}, [1], ["a"]),
    ({"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"type": "null"}}}, [None], [1]),
    ({"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "string"}}}, ["a"], [1]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/prefixItems/0"}]}, [[1, 2]], [[1, "a"]]),
    ({"type": "object", "properties": {"next": {"$ref": "#"}}, **CLOSED}, [{}, {"next": {}}, {"next": {"next": {"next": {}}}}], [{"next": 1}, {"next": {"x": 1}}]),
    ({"$ref": "#/$defs/tree", "$defs": {"tree": props(["v"], CLOSED, v={"type": "integer"}, kids={"type": "array", "items": {"$ref": "#/$defs/tree"}})}},
     [{"v": 1}, {"v": 1, "kids": [{"v": 2}, {"v": 3, "kids": []}]}], [{}, {"v": 1, "kids": [{}]}]),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]}, [1, [], [1, [2, [[]]]]], ["a", [1, ["a"]]]),
    ({"$id": "http://x/y", "$ref": "http://x/y#/$defs/a", "$defs": {"a": {"type": "null"}}}, [None], [1]),
    ({"properties": {"$ref": {"type": "string"}}, "type": "object"}, [{"$ref": "a"}], [{"$ref": 1}]),
    ({"allOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/p"}], "$defs": {"p": {"type": "string", "maxLength": 1}}}, ["a"], ["ab"]),
    # annotations
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c",
      "deprecated": True, "readOnly": True, "writeOnly": False, "contentEncoding": "base64", "x-mine": {}, "type": "integer"}, [1], ["a"]),
]

REFUSED = [
    ({"foo": 1}, "#/foo"), ({"type": "integer", "minimun": 3}, "#/minimun"), ({"properties": {"a": {"nullable": True}}, "type": "object"}, "#/properties/a/nullable"),
    ({"items": [{"type": "integer"}]}, "#/items"), ({"type": "array", "contains": {}, "maxContains": 2}, "#/maxContains"),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems"), ({"type": "array", "contains": {"const": 1}, "minItems": 3}, "#/contains"),
    ({"$dynamicRef": "#a"}, "#/$dynamicRef"), ({"$ref": "http://other/"}, "#/$ref"), ({"$ref": "#/$defs/none"}, "#/$ref"), ({"$ref": "#none"}, "#/$ref"),
    ({"properties": {"a": {"$id": "http://x/"}}}, "#/properties/a/$id"), ({"type": "string", "format": "iri"}, "#/format"),
    ({"type": "string", "format": "regex"}, "#/format"), ({"type": "object", "minProperties": 2}, "#/minProperties"),
    ({"if": {"uniqueItems": True}, "then": {"minItems": 3}}, "#/if"), ({"not": {"type": "array", "uniqueItems": True}}, "#/not"),
    ({"not": {"format": "email"}}, "#/not"), ({"if": {"format": "email"}, "then": {"minLength": 3}}, "#/if"), ({"not": {"const": [1]}}, "#/not"), ({"not": {"enum": [1, {"a": 1}]}}, "#/not"), ({"not": {"multipleOf": 3}}, "#/not"),
    ({"not": {"const": 9007199254740993}, "type": "integer"}, "#/not"), ({"not": {"additionalProperties": False}}, "#/not"),
    ({"type": "integer", "oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}, "#/oneOf"),
    ({"oneOf": [{"properties": {"a": {"multipleOf": 2}}, "required": ["a"]}, {"required": ["b"]}]}, "#/oneOf"),
    ({"type": "array", "not": {"items": {"type": "string"}}, "minItems": 2}, "#/not"),
    ({"const": 9007199254740993}, "#/const"), ({"type": "integer", "multipleOf": 0}, "#/multipleOf"), ({"type": "integer", "multipleOf": -1}, "#/multipleOf"),
    ({"type": "integer", "multipleOf": 123457}, "#/multipleOf"), ({"type": "strin"}, "#/type"), ({"type": []}, "#/type"), ({"type": 3}, "#/type"),
    ({"properties": []}, "#/properties"), ({"properties": {"a": 1}}, "#/properties"), ({"required": "a"}, "#/required"), ({"required": [1]}, "#/required"),
    ({"minLength": -1}, "#/minLength"), ({"minLength": 1.5}, "#/minLength"), ({"maxItems": "3"}, "#/maxItems"), ({"minimum": "3"}, "#/minimum"),
    ({"exclusiveMinimum": True}, "#/exclusiveMinimum"), ({"enum": []}, "#/enum"), ({"enum": 3}, "#/enum"), ({"anyOf": []}, "#/anyOf"), ({"allOf": {}}, "#/allOf"),
    ({"pattern": 3}, "#/pattern"), ({"type": "string", "pattern": "("}, "#/pattern"), ({"type": "string", "pattern": "(?=a)"}, "#/pattern"),
    ({"type": "string", "pattern": "(a)\\1"}, "#/pattern"), ({"uniqueItems": 1}, "#/uniqueItems"), (3, "#"), ([], "#"), ("x", "#"), (None, "#"),
    ({"$ref": "#"}, "#"), ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "#/$defs/a"),
    ({"anyOf": [{"$ref": "#"}, {"type": "integer"}]}, "#"), ({"allOf": [{"allOf": [{"$ref": "#/allOf/0"}]}]}, "#/allOf/0"),
    ({"type": "object", "patternProperties": {"[": {}}}, "#/patternProperties"), ({"dependencies": {}}, "#/dependencies"),
    ({"type": "object", "propertyNames": {"anyOf": [{"maxLength": 1}, {"minLength": 3}]}}, "#/propertyNames"),
]
# Nothing satisfies them, or nothing that ends.
EMPTY = [False, {"type": "integer", "minimum": 3, "maximum": 2}, {"not": {"properties": {"a": {}}}}, {"not": {"title": "t"}},
         {"type": "object", "not": {"properties": {"a": {"const": 1}}}, "unevaluatedProperties": False, "properties": {"b": {}}},
         {"oneOf": [{"type": "string"}, {"type": "string"}]}, {"if": {"type": "integer"}, "then": False, "else": False}, {"allOf": [{"type": "integer"}, {"type": "string"}]}, {"enum": [1], "type": "string"},
         {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
         {"type": "array", "minItems": 2, "maxItems": 1}, {"type": "string", "minLength": 2, "maxLength": 1}, {"not": {}},
         {"type": "string", "pattern": "^a$", "minLength": 2}, {"type": "object", "required": ["a"], "additionalProperties": False},
         {"type": "object", "required": ["a", "b"], "maxProperties": 1}]


# --- Random schemas ---

NAMES = ["a", "b", "c", "kind", "\u00e9", "a\"b"]


def random_schema(rng, depth=3):
    """A schema of any keywords, many of which octavo enforces only in part."""
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return random_scalar(rng)
    if kind < 0.55:
        return random_object(rng, depth)
    if kind < 0.7:
        return random_array(rng, depth)
    if kind < 0.9:
        word = rng.choice(["anyOf", "anyOf", "oneOf", "oneOf", "allOf"])
        schema = {word: [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
        if rng.random() < 0.4:
            schema |= random_schema(rng, depth - 1)
        return schema
    if kind < 0.94:
        return {"not": random_schema(rng, rng.randint(0, depth - 1))} | random_schema(rng, rng.randint(0, 1))
    if kind < 0.97:
        schema = {"if": random_schema(rng, rng.randint(0, depth - 1))}
        for word in rng.choice([["then"], ["else"], ["then", "else"]]):
            schema[word] = random_schema(rng, rng.randint(0, 1))
        return schema | (random_object(rng, 1) if rng.random() < 0.5 else {})
    return {"$ref": rng.choice(["#", "#/$defs/d", "#/$defs/e"])}


def random_scalar(rng):
    kind = rng.randint(0, 9)
    if kind == 0:
        return {}
    if kind == 1:
        return {"type": rng.choice(["null", "boolean", ["string", "null"], "string", ["integer", "boolean"]])}
    if kind == 2:
        return {"enum": rng.sample([1, 2.5, "a", "b", None, True, [1], {"a": 1}, "\n", -3], rng.randint(1, 4))}
    if kind == 3:
        return {"const": rng.choice([1, "a", "b", None, {"a": [1]}])}
    if kind <= 6:
        schema = {"type": rng.choice(["integer", "number"])} if rng.random() < 0.8 else {}
        for word in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]:
            if rng.random() < 0.3:
                schema[word] = rng.choice([rng.randint(-20, 20), rng.randint(-2000, 2000) / 64, rng.randint(-10**6, 10**6)])
        if rng.random() < 0.25:
            schema["multipleOf"] = rng.choice([1, 2, 3, 7, 10, 100, 0.5, 0.25])
        return schema
    schema = {"type": "string"} if rng.random() < 0.8 else {}
    if rng.random() < 0.3:
        schema["minLength"] = rng.randint(0, 5)
    if rng.random() < 0.3:
        schema["maxLength"] = rng.randint(0, 8)
    if rng.random() < 0.25:
        schema["pattern"] = rng.choice(["^a", "b$", "^[a-z]+$", "x|y", "^.{2,4}$", "[\"\\\\]", "^(ab)*$"])
    if rng.random() < 0.2:
        schema["format"] = rng.choice(["date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "iri", "int32"])
    return schema


def random_object(rng, depth):
    schema = {"type": "object"} if rng.random() < 0.85 else {}
    names = rng.sample(NAMES, rng.randint(0, 4))
    schema["properties"] = {name: random_schema(rng, depth - 1) if rng.random() < 0.95 else False for name in names}
    if rng.random() < 0.6:
        schema["required"] = rng.sample(NAMES if rng.random() < 0.1 else names, rng.randint(0, min(2, len(names))))
    if rng.random() < 0.6:
        schema["additionalProperties"] = rng.choice([False, False, True, random_schema(rng, 0)])
    if rng.random() < 0.15:
        schema["patternProperties"] = {rng.choice(["^a", "d", "^.$"]): random_schema(rng, 0) for _ in range(2)}
    if rng.random() < 0.1:
        schema["propertyNames"] = rng.choice([{"maxLength": 3}, {"enum": ["a", "b", "zz"]}, {"pattern": "^[a-k]"}])
    if rng.random() < 0.15:
        schema["minProperties"] = rng.randint(0, 3)
    if rng.random() < 0.15:
        schema["maxProperties"] = rng.randint(0, 4)
    if rng.random() < 0.1 and names:
        schema["dependentRequired"] = {names[0]: [rng.choice(NAMES)]}
    if rng.random() < 0.1:
        schema["unevaluatedProperties"] = rng.choice([False, {"type": "integer"}])
    return schema


def random_array(rng, depth):
    schema = {"type": "array"} if rng.random() < 0.85 else {}
    if rng.random() < 0.7:
        schema["items"] = random_schema(rng, depth - 1)
    if rng.random() < 0.3:
        schema["prefixItems"] = [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.4:
        schema["minItems"] = rng.randint(0, 3)
    if rng.random() < 0.5:
        schema["maxItems"] = rng.randint(0, 5)
    for word, value in [("uniqueItems", True), ("contains", {"type": "integer"}), ("unevaluatedItems", False)]:
        if rng.random() < 0.08:
            schema[word] = value
    return schema


def random_root(rng):
    schema = random_schema(rng)
    if isinstance(schema, dict):
        schema["$defs"] = {"d": random_schema(rng, 1), "e": random_schema(rng, 2)}
    return schema


KEYWORDS = set("""type properties required additionalProperties patternProperties propertyNames minProperties maxProperties
dependentRequired unevaluatedProperties items prefixItems minItems maxItems uniqueItems contains unevaluatedItems enum const
minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format allOf anyOf oneOf not if $ref
""".split())
REFUSED_KEYWORDS = {"$dynamicRef", "$id", "maxContains"}
