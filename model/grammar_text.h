#ifndef MODEL_GRAMMAR_TEXT_H
#define MODEL_GRAMMAR_TEXT_H

#include "config/json.h"
#include "model/grammar.h"

/*
 * The languages in which clients write grammars, as nodes of a builder. Each returns the node in *out;
 * ERR_INVALID names what is wrong and where in the text (line and column, or JSON pointer); ERR_UNSUPPORTED a
 * construct that is legal and that octavo does not enforce: it is refused, never ignored.
 */

/* GBNF, llama.cpp's notation (its grammars/README.md): rules, literals, character classes, groups,
   repetition, comments; the rule `root` is the start. */
enum err grammar_gbnf(struct grammar_builder *builder, const char *text, size_t length, int *out,
                      struct err_info *info);

/* A regular expression in the common ground of ECMA-262 (with u) and Python: alternatives, classes and their
   escapes, groups, lazy or greedy repetition (the same language), anchors at the ends. Back references and
   look-around are ERR_UNSUPPORTED. */
struct grammar_regex_options {
    bool search;      /* the text contains a match (JSON Schema's pattern); else the text is one */
    bool json_string; /* match the inside of a JSON string: a character in any spelling that RFC 8259 has for
                         it that generators use: itself, or its short escape, or \u00XX for control characters
                       */
};
enum err grammar_regex(struct grammar_builder *builder, const char *pattern, size_t length,
                       const struct grammar_regex_options *options, int *out, struct err_info *info);

/* JSON texts that a JSON Schema (draft 2020-12) accepts; NULL: any JSON object. Every text derived satisfies
   the schema; not every one that satisfies it is derived, for a model needs one good way to write a value:

   - White space: one space or none after ':'; after '{', '[', ',' and before '}', ']' none, one space, or a
     line feed and at most 32 spaces. None in empty brackets, around the whole, or before ':' and ','.
   - Members in the order of the schema, then those it does not name; required ones always.
     additionalProperties is true unless the schema says otherwise, as the draft has it (not as OpenAI's
   strict mode). A member that is not named may come twice; readers take one of the two, and each satisfies
   the schema.
   - Numbers: 20 digits before the point, 20 after it, an exponent of two digits; with bounds or multipleOf no
     exponent, and at most 15 significant digits with a fraction. Integers have neither. multipleOf is
     exact in decimal, which validators that divide doubles are not.
   - Strings: characters as they are or escaped as RFC 8259 has it, surrogates in pairs, no U+0000. Where
     patterns, formats, names to keep away from or `not` hold, \u only for control characters.
   - const and enum: as octavo writes them.

   Enforced: type, const, enum, properties, required, additionalProperties, patternProperties, propertyNames,
   min- and maxProperties, dependentRequired, dependentSchemas, unevaluatedProperties, items, prefixItems,
   min- and maxItems, unevaluatedItems, minimum, maximum, exclusive ones, multipleOf, min- and maxLength,
   pattern, format, allOf, anyOf, $ref within the schema, $defs, $anchor, true and false. In part, else
   ERR_UNSUPPORTED: contains and minContains, alone; uniqueItems, of an enum of up to 8; not, if and oneOf
   whose branches overlap, where the opposite of a schema can be written as one, which all keywords have but
   patternProperties, propertyNames, unevaluated*, additionalProperties other than true, uniqueItems,
   format, multipleOf other than 1, and arrays and objects in const or enum (beside const or enum all of
   anything: each value is tried); unevaluated*, not beside values that they speak of; minProperties, when at
   most one of the members is not named; const and enum of integers below 2^53. Refused: maxContains,
   $dynamicRef, $id below the root, references to other documents, the formats regex, iri, iri-reference,
   uri-template, idn-email, idn-hostname. Annotations, ignored: title, description, default, examples,
   deprecated, readOnly, writeOnly, $schema, $id, $comment, content*, names that begin with "x-", and formats
   that the draft does not name. Any other keyword is ERR_UNSUPPORTED.

   The message names keyword and place: "JSON schema, #/properties/a/minLength: must be ...". ERR_INVALID: not
   a schema; one that refers to itself without going into a value. ERR_LIMIT: more work than the limits of
   model/schema.c, or more time than those of the builder allow. A schema that nothing satisfies is found by
   grammar_build. */
enum err grammar_schema(struct grammar_builder *builder, const struct json *schema, int *out,
                        struct err_info *info);

#endif
