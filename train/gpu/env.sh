# Read by the other scripts: R the repository, W the folder for everything, DEV the device, ENCODERS the processes
# that make pairs.
R=${R:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
W=${W:-/tmp}
DEV=${DEV:-cuda}
PY=${PY:-python3}
ENCODERS=${ENCODERS:-$(($(nproc) > 3 ? $(nproc) - 3 : 1))}
export PYTHONPATH=$W/site:$R PYTHONUNBUFFERED=1 OMP_NUM_THREADS=3
export W
P="$PY -m train"
cd "$R" || exit 1
