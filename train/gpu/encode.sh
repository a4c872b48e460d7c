#!/usr/bin/env bash
# Makes pairs of the originals in the folders of $W/data, in rounds: of each picture another crop, by every codec; in odd
# rounds as it is, in even ones at another scale, mostly larger, and with grain (docs/trainings.md). Folders that are
# moved there meanwhile are in the next round. Ends when drive.sh has ended and the round is over.
. "$(dirname "$0")/env.sh"
set -o pipefail
round=0
until [ -e "$W/done" ]; do
  round=$((round + 1))
  other=()
  ((round % 2)) || other=(--scales 0.8-1.9 --grain 6)
  if $P prepare "$W"/data/* -o "$W/store" --seed $round --crop 320 --soft-chroma 0.5 "${other[@]}" --workers "$ENCODERS" \
    -c vvc@20-48x1 -c bpg@20-49x3 -c bpg,chroma=444@20-48x1 \
    -c jpeg@5-98x1 -c jpeg,chroma=444@10-98x1 -c webp@5-98x1 2>&1 | tail -c 200; then
    touch "$W/first_round"
  else
    sleep 2
  fi
  echo "$(date +%T) round $round: $(wc -l <"$W/store/index.jsonl") lines"
done
