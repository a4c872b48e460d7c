#!/usr/bin/env bash
# collect.sh NAME SECONDS: waits until drive.sh has ended the run NAME (or everything: done), at most so long; then
# copies weights and logs to $OUT.
. "$(dirname "$0")/env.sh"
end=$(($(date +%s) + $2))
until [ -e "$W/done" ] || grep -q " $1 ended" "$W/drive.log" || [ "$(date +%s)" -ge $end ]; do sleep 0.5; done
sleep 1
if [ "$1" = done ]; then
  cp "$W"/run/*/learned-*.safetensors "$OUT/"
else
  for name in max balanced fast; do
    [ -e "$W/run/$name/last.safetensors" ] && cp "$W/run/$name/last.safetensors" "$OUT/$name.safetensors"
  done
fi
(cd "$W/run" && tar czf "$OUT/logs.tgz" ./*/config.json ./*/log.jsonl)
tail -c 8000 "$W/drive.log"
