#ifndef CONFIG_VERSION_H
#define CONFIG_VERSION_H

/* The one place that holds the version; CMakeLists.txt reads it from here. */
#define OCTAVO_VERSION "0.1.0"

#endif
