#ifndef CONFIG_JSON_SCAN_H
#define CONFIG_JSON_SCAN_H

#include "config/json.h"

/* The validating half of json_parse: errors as described there. */
enum err json_scan(const char *text, size_t length, const struct json_limits *limits, struct err_info *info);

#endif
