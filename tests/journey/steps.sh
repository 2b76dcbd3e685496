#!/bin/sh
# The single steps that `flexavatar create PHOTO` runs, one by one; the results are the same to the bit.
# Usage: steps.sh PHOTO FOLDER [MODEL [STEPS [SIZE]]]
set -eu
photo=$1 folder=$2 model=${3:-open-1} steps=${4:-200} size=${5:-512}
flexavatar track "$photo" -o "$folder/track.npz"
flexavatar matte "$photo" -o "$folder/matte.png"
flexavatar encode "$photo" --model "$model" --matte "$folder/matte.png" --track "$folder/track.npz" -o "$folder/encoded.avatar"
flexavatar fit "$photo" --model "$model" --matte "$folder/matte.png" --track "$folder/track.npz" --init "$folder/encoded.avatar" --steps "$steps" -o "$folder/fitted.avatar"
flexavatar render "$folder/fitted.avatar" --model "$model" --size "$size" -o "$folder/fitted.mp4"
