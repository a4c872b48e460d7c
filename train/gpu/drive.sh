#!/usr/bin/env bash
# Trains max, then balanced and fast side by side, then the learned codecs, until the time in $W/deadline.
. "$(dirname "$0")/env.sh"
left() { echo $(($(cat "$W/deadline") - $(date +%s))); }
minutes() { $PY -c "print(max(5, $1) / 60)"; }

# run NAME SECONDS TRAIN_ARGUMENTS…: a second try without CUDA graphs gets the time that a failed one left.
run() {
  local name=$1 end=$(($(date +%s) + $2))
  echo "$(date +%T) $name: $2 s of $(left) left; store $(wc -l <"$W/store/index.jsonl") lines"
  shift 2
  local common=(-d "$W/store" -o "$W/run/$name" --fit --device "$DEV")
  if ! timeout $((end - $(date +%s) + 50)) $P "$@" "${common[@]}" --minutes "$(minutes $((end - $(date +%s) - 6)))" >"$W/$name.log" 2>&1; then
    echo "$name failed: $(tail -c 400 "$W/$name.log")"
    rm -rf "$W/run/$name"
    $P "$@" "${common[@]}" --minutes "$(minutes $((end - $(date +%s))))" --eager >"$W/$name.log" 2>&1
  fi
  echo "$(date +%T) $name ended"
}

mkdir -p "$W/run"
all=(--set save_every=1000000 --set data.blind=0.1 --set 'data.weights={bpg=0.45,vvc=0.35,jpeg=0.14,webp=0.06}')
mae='{steps=30000,batch=8,crop=128,loss="relative_mae"}'
run a 45 run max "${all[@]}" --set "phases=[$mae]" --set optimizer.lr=7e-4 --set optimizer.decay=0.0 --set validate_every=1000000 --set 'start="max"'
while [ ! -e "$W/all_staged" ] && [ "$(left)" -gt 560 ]; do sleep 0.5; done
mse='{steps=9000,batch=8,crop=128,loss="relative_mse"}'
run max $(($(left) * 51 / 100)) run max "${all[@]}" --set "phases=[$mae,$mse]" --set optimizer.lr=7e-4 --set optimizer.decay=0.7 \
  --set validate_every=6000 --set "start=\"$W/run/a/last.safetensors\""

all+=(--set validate_every=8000)
phases='phases=[{steps=6000,batch=16,crop=128,loss="relative_mae"},{steps=4000,batch=16,crop=128,loss="relative_mse"}]'
rest=$(left)
run balanced $((rest * 57 / 100)) run balanced "${all[@]}" --set "$phases" --set 'start="balanced"' --set optimizer.lr=1.2e-3 &
run fast $((rest * 40 / 100)) run fast "${all[@]}" --set "$phases" --set 'start="fast"' --set optimizer.lr=1.6e-3 --set optimizer.decay=0.7
wait

sizes=(--n 64 --m 160 --batch 8 --crop 192 --validate-every 4000)
run vrae $(($(left) * 45 / 100)) learned vrae "${sizes[@]}"
rest=$(($(left) - 4))
for lambda in 0.0018 0.0054 0.0161 0.0483; do
  run "msh-$lambda" $rest learned msh "${sizes[@]}" --lambda $lambda --start "$W/run/vrae/learned-vrae.safetensors" &
done
wait
touch "$W/done"
echo "$(date +%T) done, $(left) s left"
