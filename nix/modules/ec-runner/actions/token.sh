#!/bin/sh
# Writes the runner's token, which is the credential token, alone or behind TOKEN=,
# into the current folder: to token alone, and to token.env as an EnvironmentFile of
# systemd.exec(5) has it.
set -eu
umask 077

token=$(tr -d '[:space:]' <"$CREDENTIALS_DIRECTORY/token")
token=${token#TOKEN=}
case $token in
  '')
    echo "services.every-channel.runner.actions.tokenFile has no token in it" >&2
    exit 1
    ;;
  *[!A-Za-z0-9_.~+/=-]*)
    echo "services.every-channel.runner.actions.tokenFile has more in it than a token" >&2
    exit 1
    ;;
esac
printf '%s\n' "$token" >token
printf 'TOKEN=%s\n' "$token" >token.env
