for (const video of document.querySelectorAll("video")) {
  const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
  video.controls = false;
  video.tabIndex = 0;
  video.addEventListener("click", toggle);
  video.addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") { event.preventDefault(); toggle(); }
  });
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    new IntersectionObserver(([entry]) => {
      if (entry.isIntersecting) video.play().catch(() => {});
      else video.pause();
    }, { threshold: 0.6 }).observe(video);
  }
}
