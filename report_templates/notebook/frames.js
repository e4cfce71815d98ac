"use strict";
// Each figure runs in a frame without this page's origin; its library is included in this page once.
const frames = [...document.querySelectorAll("iframe[data-document]")];
addEventListener("message", (event) => {
  const frame = frames.find((one) => one.contentWindow === event.source);
  if (frame && Number.isFinite(event.data)) {
    frame.style.height = `${Math.min(Math.max(event.data + 8, 60), 4000)}px`;
  }
});
for (const frame of frames) {
  const library = document.getElementById(`nb-library-${frame.dataset.library}`);
  const script = library ? `<script>${library.textContent}<\/script>` : "";
  frame.srcdoc = `<!DOCTYPE html><meta charset="utf-8">${script}${frame.dataset.document}`;
}
