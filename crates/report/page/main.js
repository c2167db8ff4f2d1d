// Fills the page, section by section.

function showSetup() {
  const groups = data.facts.filter(({ facts }) => facts.length > 0);
  if (groups.length === 0 && data.config === "") return empty("setup", "Nothing is known.");
  const group = ({ title, facts }) => {
    const list = make("dl", {});
    for (const [name, value] of facts) list.append(make("dt", {}, name), make("dd", {}, value));
    return make("div", {}, make("h3", {}, title), list);
  };
  content("setup").append(make("div", { class: "columns" }, ...groups.map(group)));
  if (data.config !== "") {
    const config = make("pre", { tabindex: 0, "aria-label": "Config" }, data.config);
    content("setup").append(make("details", { open: true }, make("summary", {}, "Config"), config));
  }
}

// Marks the section that is being read.
function followScrolling() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        links.get(target.id).classList.toggle("current", isIntersecting);
      }
    },
    { rootMargin: "-20% 0px -75% 0px" },
  );
  document.querySelectorAll("section").forEach((section) => observer.observe(section));
}

document.getElementById("title").textContent = data.title || "Run";
document.getElementById("subtitle").textContent = [
  data.log.steps > 0 ? count(data.log.steps, "step", "steps") : null,
  data.log.evaluations.length > 0 ? count(data.log.evaluations.length, "evaluation", "evaluations") : null,
  data.analysis ? `${count(data.analysis.images, "validation image", "validation images")}` : null,
]
  .filter((part) => part)
  .join(" · ");

showSummary();
showData();
showTraining();
showPrecision();
showCurves();
showClasses();
showConfusion();
showErrors();
showCalibration();
showLossShares();
showAnchors();
showGallery();
showSetup();
followScrolling();
