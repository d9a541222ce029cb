// The explorer's page in a frame of its own, and the head chosen there handed to the kernel.
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.title = "headprobe explorer";
  frame.style.cssText = "width:100%;height:820px;border:1px solid #c9c9c9";
  frame.srcdoc = model.get("page");
  const heard = (event) => {
    if (event.source !== frame.contentWindow || !event.data || event.data.headprobe !== "chosen") return;
    model.set("chosen", String(event.data.head));
    model.save_changes();
  };
  window.addEventListener("message", heard);
  el.append(frame);
  return () => window.removeEventListener("message", heard);
}

export default { render };
