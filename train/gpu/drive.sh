#!/usr/bin/env bash
# Trains max, then balanced, then fast, each on the pairs there are when it starts, until the time in $W/deadline. Each
# starts while the one before ends: what a start costs, half a minute, is mostly the processor's work.
. "$(dirname "$0")/env.sh"
LEAD=${LEAD:-20}
deadline=$(cat "$W/deadline")
left() { echo $((deadline - $(date +%s))); }

# run NAME UNTIL TRAIN_ARGUMENTS…: a second try without CUDA graphs gets the time that a failed one left.
run() {
  local name=$1 end=$2
  echo "$(date +%T) $name: until $((deadline - end)) s before the end, $(left) s left; store $(wc -l <"$W/store/index.jsonl") lines"
  shift 2
  minutes() { $PY -c "print(max(5, $end - $(date +%s) - 6) / 60)"; }
  local common=(-d "$W/store" -o "$W/run/$name" --fit --device "$DEV")
  if ! timeout $((end - $(date +%s) + 45)) $P run "$@" "${common[@]}" --minutes "$(minutes)" >"$W/$name.log" 2>&1; then
    echo "$name failed: $(tail -c 400 "$W/$name.log")"
    rm -rf "$W/run/$name"
    $P run "$@" "${common[@]}" --minutes "$(minutes)" --eager >"$W/$name.log" 2>&1
  fi
  echo "$(date +%T) $name ended"
}

# Waits until then, or until the training in the background has failed.
nearly() { while kill -0 $! 2>/dev/null && [ "$(date +%s)" -lt "$1" ]; do sleep 0.5; done; }

until [ -e "$W/first_round" ]; do sleep 0.5; done
mkdir -p "$W/run"
all=(--set save_every=1000000 --set validate_every=1000000 --set data.blind=0.1)
all+=(--set 'data.weights={bpg=0.45,vvc=0.35,jpeg=0.14,webp=0.06}')
mae='{steps=20000,batch=8,crop=128,loss="relative_mae"}'
run a $(($(date +%s) + ${FIRST:-75})) max "${all[@]}" --set "phases=[$mae]" --set optimizer.lr=7e-4 --set optimizer.decay=0.0 \
  --set 'start="max"'
first=$W/run/a/last.safetensors
[ -e "$first" ] || first=max

max_end=$(($(date +%s) + $(left) * ${MAX:-52} / 100))
balanced_end=$((max_end + (deadline - max_end) * 58 / 100))
mse='{steps=12000,batch=8,crop=128,loss="relative_mse"}'
run max $max_end max "${all[@]}" --set "phases=[$mae,$mse]" --set optimizer.lr=7e-4 --set optimizer.decay=0.7 \
  --set "start=\"$first\"" &
nearly $((max_end - LEAD))
phases='phases=[{steps=6000,batch=32,crop=128,loss="relative_mae"},{steps=4000,batch=32,crop=128,loss="relative_mse"}]'
run balanced $balanced_end balanced "${all[@]}" --set "$phases" --set 'start="balanced"' --set optimizer.lr=1.4e-3 --set optimizer.decay=0.6 &
nearly $((balanced_end - LEAD))
run fast "$deadline" fast "${all[@]}" --set "$phases" --set 'start="fast"' --set optimizer.lr=1.8e-3 --set optimizer.decay=0.6
wait
touch "$W/done"
echo "$(date +%T) done, $(left) s left"
