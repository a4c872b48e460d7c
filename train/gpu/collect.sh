#!/usr/bin/env bash
# collect.sh NAME SECONDS: waits until drive.sh has ended the run NAME (or everything: done), at most so long; then
# copies weights and logs to $OUT.
. "$(dirname "$0")/env.sh"
end=$(($(date +%s) + $2))
until [ -e "$W/done" ] || grep -q " $1 ended" "$W/drive.log" || [ "$(date +%s)" -ge $end ]; do sleep 0.5; done
sleep 1
for name in a max balanced fast; do
  [ -e "$W/run/$name/best.safetensors" ] && cp "$W/run/$name/best.safetensors" "$OUT/$name.safetensors"
done
(cd "$W/run" && tar czf "$OUT/logs.tgz" ./*/config.json ./*/log.jsonl)
cat "$W/drive.log"
for name in a max balanced fast; do if [ -e "$W/$name.log" ]; then tail -c 150 "$W/$name.log"; fi; done
