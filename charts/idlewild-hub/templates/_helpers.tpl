{{- /* --reuse-values takes the values of the old chart alone, without what the new one added. */ -}}
{{- define "idlewild-hub.complete" -}}
{{- range list "crds" "gateway" "metrics" "networkPolicy" "podLabels" -}}
{{- if not (hasKey $.Values .) -}}
{{- fail (printf "%s in the values is missing: use --reset-then-reuse-values instead of --reuse-values" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "idlewild-hub.namespace" -}}
{{- include "idlewild-hub.complete" . -}}
{{- .Release.Namespace -}}
{{- end -}}

{{- define "idlewild-hub.labels" -}}
app.kubernetes.io/name: idlewild-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: idlewild
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "idlewild-hub.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}
