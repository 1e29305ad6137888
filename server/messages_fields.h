#ifndef SERVER_MESSAGES_FIELDS_H
#define SERVER_MESSAGES_FIELDS_H

#include "server/translation.h"

/* Everything of a body of /v1/messages but the conversation: tools, tool_choice, stop_sequences, metadata,
   thinking, output_config. */
enum err messages_translate_fields(struct translation *translation, const struct json *body);

#endif
