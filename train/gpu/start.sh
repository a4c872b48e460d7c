#!/usr/bin/env bash
# start.sh SECONDS: encode.sh and drive.sh in the background, to end after so many seconds.
start=$(date +%s)
. "$(dirname "$0")/env.sh"
rm -rf "$W"/{done,first_round,run}
echo $((start + $1)) >"$W/deadline"
for script in encode drive; do
  setsid nohup bash "$R/train/gpu/$script.sh" >"$W/$script.log" 2>&1 </dev/null &
done
echo "started, $(ls "$W/data") at $(date +%T)"
