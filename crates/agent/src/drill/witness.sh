# Run by drills: leaves evidence of who ran when, and of every line that it wrote.
dir=$NOMAD_TASK_DIR/$WITNESS_RUN
run=$WITNESS_RUN
[ -d "$dir" ] || mkdir "$dir"
# Whoever finds the marker of one that lives is one too many.
marker=$NOMAD_TASK_DIR/main
if ! (set -C; echo "$$" >"$marker") 2>/dev/null; then
  read -r other <"$marker"
  if kill -0 "$other" 2>/dev/null; then
    echo "$$" >>"$NOMAD_TASK_DIR/doubles"
  fi
  echo "$$" >"$marker"
fi
# A start that is tried again under the same id has a number of its own.
start=1
while [ -e "$dir/start.$start" ]; do
  start=$((start + 1))
done
# Only noted, so that no line is left out in the middle of being written.
asked=
trap 'asked=1' TERM
echo "$$" >"$dir/start.$start"
n=0
say() {
  n=$((n + 1))
  echo "$run/$start $n"
  echo "$n" >>"$dir/written.$start"
}
end() {
  say
  echo "$run/$start end $n"
  exit "$1"
}
t=0
while [ -z "$asked" ] && [ "$t" -lt "$WITNESS_TICKS" ] && [ ! -e "$dir/go" ]; do
  t=$((t + 1))
  i=0
  while [ -z "$asked" ] && [ "$i" -lt "$WITNESS_BURST" ]; do
    i=$((i + 1))
    say
  done
  sleep "$WITNESS_TICK" &
  wait "$!"
done
if [ -n "$asked" ]; then
  end "$WITNESS_STOP_CODE"
fi
end "$WITNESS_CODE"
