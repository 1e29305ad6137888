#!/bin/bash
# GET /health with nothing but bash; status 0 when the server says 200.
exec 3<>"/dev/tcp/127.0.0.1/${OCTAVO_PORT:-8080}" || exit 1
printf 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 4 _ status _ <&3 || exit 1
[ "$status" = 200 ]
