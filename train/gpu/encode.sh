#!/usr/bin/env bash
# Makes pairs of the originals in the folders of $W/data, in rounds: of each picture another crop at another scale, by
# every codec. Folders that are moved there meanwhile are in the next round. Ends when drive.sh has ended and the round
# is over.
. "$(dirname "$0")/env.sh"
set -o pipefail
round=0
until [ -e "$W/done" ]; do
  round=$((round + 1))
  if $P prepare "$W"/data/* -o "$W/store" --seed $round --crop 320 --scales 0.6-1.25 --soft-chroma 0.5 --workers "$ENCODERS" \
    -c vvc@20-48x1 -c bpg@20-49x3 -c bpg,chroma=444@20-48x1 \
    -c jpeg@5-98x1 -c jpeg,chroma=444@10-98x1 -c webp@5-98x1 2>&1 | tail -c 200; then
    touch "$W/first_round"
  else
    sleep 2
  fi
  echo "$(date +%T) round $round: $(wc -l <"$W/store/index.jsonl") lines"
done
