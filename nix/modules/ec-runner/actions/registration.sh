#!/bin/sh
# Writes the file that registering a runner leaves behind, .runner, into the current
# folder:
#
#   registration.sh JSON
#
# JSON is what is in it without the token, which is the credential token. The file
# is anew at every start, so that a change of the configuration counts.
set -eu
umask 077

# The token goes in front of the closing brace.
printf '%s,"token":"%s"}\n' "${1%\}}" "$(cat "$CREDENTIALS_DIRECTORY/token")" >.runner.new
mv .runner.new .runner
