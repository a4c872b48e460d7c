#!/usr/bin/env bash
# unpack.sh FOLDER [SECONDS]: adds the shards in FOLDER to the store $W/store, and JPEG and WebP pairs of them.
# With SECONDS, drive.sh is started in the background and ends after them.
start=$(date +%s)
shards=$(realpath "$1")
. "$(dirname "$0")/env.sh"
workers=$(($(nproc) - 2))
$P unpack "$shards"/*.zip -o "$W/store" --workers $workers 2>&1 | tail -c 150
$P prepare "$W/store" -o "$W/store" --workers $workers -c jpeg@5-98x4 -c jpeg,chroma=444@10-98x1 -c webp@5-98x1 2>&1 | tail -c 150
wc -l "$W/store/index.jsonl"
if [ -n "$2" ]; then
  echo $((start + $2)) >"$W/deadline"
  setsid nohup bash "$R/train/gpu/drive.sh" >"$W/drive.log" 2>&1 </dev/null &
fi
echo "took $(($(date +%s) - start)) s"
