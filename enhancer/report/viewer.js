
/* ---- viewer: two versions of a picture, moved and zoomed together ---- */

const GALLERY = JSON.parse(byId("gallery").textContent);
const view = { scale: 1, x: 0, y: 0, border: 0.5, flipped: false };
const stage = byId("stage");
const sides = { left: byId("pane-left"), right: byId("pane-right") };

const currentPicture = () => GALLERY.pictures[Number(byId("v-picture").value)];
const mode = () => byId("v-mode").value;

function describe(shot) {
  const number = (value, digits) => (value === null ? "–" : value === "inf" ? "∞" : value.toFixed(digits));
  return `${shot.label}, qp ${shot.qp}: ${number(shot.bpp, 3)} bpp, ${number(shot.psnr, 2)} dB`;
}

/** The versions of a picture: its original, then what was measured. */
function versions(picture) {
  return [{ name: "original", key: picture.original }]
    .concat(picture.shots.map((shot) => ({ name: describe(shot), key: shot.key })));
}

function fillVersions() {
  const list = versions(currentPicture());
  ["v-left", "v-right"].forEach((id, side) => {
    const select = byId(id);
    const before = select.value;
    select.replaceChildren();
    list.forEach((version, index) => option(select, index, version.name));
    select.value = before || String(firstChoice(side));
  });
}

/** At first: a decoded picture on the left; on the right its enhanced one, or else the original. */
function firstChoice(side) {
  const shots = currentPicture().shots;
  const decoded = shots.findIndex((shot) => !shot.enhanced);
  if (side === 0) return Math.max(decoded, 0) + 1;
  const base = shots[Math.max(decoded, 0)];
  return shots.findIndex((shot) => shot.enhanced && shot.qp === base.qp && shot.label.startsWith(base.label)) + 1;
}

function showVersions() {
  const list = versions(currentPicture());
  const chosen = [byId("v-left"), byId("v-right")].map((select) => list[Number(select.value)]);
  if (view.flipped) chosen.reverse();
  ["left", "right"].forEach((side, index) => {
    const image = byId(`img-${side}`);
    image.src = GALLERY.images[chosen[index].key];
    image.alt = `${currentPicture().name}, ${chosen[index].name}`;
    sides[side].querySelector(".tag").textContent = chosen[index].name;
  });
  if (mode() === "difference") drawDifference();
  layout();
}

function paneWidth() {
  return stage.clientWidth / (mode() === "pair" ? 2 : 1);
}

function layout() {
  stage.dataset.mode = mode();
  byId("gain-label").hidden = mode() !== "difference";
  byId("v-slider").hidden = mode() !== "slider";
  const transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  [byId("img-left"), byId("img-right"), byId("difference")].forEach((element) => {
    element.style.transform = transform;
    element.style.imageRendering = view.scale >= 2 ? "pixelated" : "auto";
  });
  const border = view.border * stage.clientWidth;
  sides.right.style.clipPath = mode() === "slider" ? `inset(0 0 0 ${border}px)` : "none";
  byId("divider").style.left = `${border}px`;
  byId("v-slider").value = String(Math.round(view.border * 1000));
}

function fit() {
  const picture = currentPicture();
  stage.style.height = ""; // as the style sheet says, or less for a wide picture
  stage.style.height = `${Math.max(200, Math.min(stage.clientHeight, (paneWidth() * picture.height) / picture.width))}px`;
  view.scale = Math.min(paneWidth() / picture.width, stage.clientHeight / picture.height);
  center(picture);
}

function oneToOne() {
  view.scale = 1 / window.devicePixelRatio;
  center(currentPicture());
}

function center(picture) {
  view.x = (paneWidth() - picture.width * view.scale) / 2;
  view.y = (stage.clientHeight - picture.height * view.scale) / 2;
  layout();
}

function zoom(factor, x, y) {
  const scale = Math.min(32, Math.max(0.05, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  layout();
}

function setBorder(share) {
  view.border = Math.min(1, Math.max(0, share));
  layout();
}

function flip() {
  view.flipped = !view.flipped;
  showVersions();
}

/** |left − right| of each channel times the gain, on the pictures as this page holds them. */
async function drawDifference() {
  const images = [byId("img-left"), byId("img-right")];
  await Promise.all(images.map((image) => image.decode()));
  const canvas = byId("difference");
  [canvas.width, canvas.height] = [images[0].naturalWidth, images[0].naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [left, right] = images.map((image) => {
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  });
  const gain = Number(byId("v-gain").value) || 1;
  for (let i = 0; i < left.data.length; i += 1) {
    if (i % 4 !== 3) left.data[i] = Math.abs(left.data[i] - right.data[i]) * gain;
  }
  context.putImageData(left, 0, 0);
}

/* One finger or the mouse moves, two fingers zoom; on the divider one moves the border. */
const pointers = new Map();
let onDivider = false;

function position(event) {
  const box = stage.getBoundingClientRect();
  const x = event.clientX - box.left;
  return { x: mode() === "pair" && x > box.width / 2 ? x - box.width / 2 : x, y: event.clientY - box.top, full: x };
}

function pointerMoved(event) {
  if (!pointers.has(event.pointerId)) return;
  const before = pointers.get(event.pointerId);
  const now = position(event);
  if (onDivider) {
    setBorder(now.full / stage.clientWidth);
  } else if (pointers.size === 1) {
    view.x += now.full - before.full;
    view.y += now.y - before.y;
    layout();
  } else if (pointers.size === 2) {
    const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)[1];
    const distance = (a) => Math.hypot(a.full - other.full, a.y - other.y);
    zoom(distance(now) / Math.max(1, distance(before)), (now.x + other.x) / 2, (now.y + other.y) / 2);
  }
  pointers.set(event.pointerId, now);
}

function initPointers() {
  stage.addEventListener("pointerdown", (event) => {
    onDivider = event.target === byId("divider");
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, position(event));
  });
  stage.addEventListener("pointermove", pointerMoved);
  ["pointerup", "pointercancel"].forEach((name) => stage.addEventListener(name, (event) => {
    pointers.delete(event.pointerId);
    onDivider = false;
  }));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = position(event);
    zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.03 : 0.0015)), x, y);
  }, { passive: false });
}

const KEYS = {
  f: flip, F: flip, 0: fit, 1: oneToOne,
  "+": () => zoom(1.25, paneWidth() / 2, stage.clientHeight / 2),
  "-": () => zoom(0.8, paneWidth() / 2, stage.clientHeight / 2),
  ArrowLeft: () => setBorder(view.border - 0.02),
  ArrowRight: () => setBorder(view.border + 0.02),
};

function initViewer() {
  const lossy = GALLERY.quality === "lossless" ? "Pictures are stored without loss."
    : `To keep this page small its pictures are recompressed (WebP, quality ${GALLERY.quality}); all numbers were measured on the exact ones.`;
  const dropped = GALLERY.dropped ? ` ${GALLERY.dropped} pictures of the set are not shown here.` : "";
  byId("viewer-note").textContent = GALLERY.pictures.length ? lossy + dropped : GALLERY.reason;
  if (!GALLERY.pictures.length) return;
  byId("viewer").hidden = false;
  GALLERY.pictures.forEach((picture, index) => option(byId("v-picture"), index, picture.name));
  fillVersions();
  byId("v-picture").addEventListener("change", () => { fillVersions(); showVersions(); fit(); });
  ["v-left", "v-right"].forEach((id) => byId(id).addEventListener("change", () => { view.flipped = false; showVersions(); }));
  byId("v-mode").addEventListener("change", () => { showVersions(); fit(); });
  byId("v-gain").addEventListener("change", drawDifference);
  byId("v-slider").addEventListener("input", () => setBorder(Number(byId("v-slider").value) / 1000));
  byId("v-flip").addEventListener("click", flip);
  byId("v-fit").addEventListener("click", fit);
  byId("v-one").addEventListener("click", oneToOne);
  stage.addEventListener("keydown", (event) => {
    if (KEYS[event.key] && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
  initPointers();
  window.addEventListener("resize", layout);
  showVersions();
  fit();
}

initViewer();
